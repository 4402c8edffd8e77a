/** The notifier's public URL if a submitter serves this module, which replaces it; otherwise null. */
export const liveUrl = null;
