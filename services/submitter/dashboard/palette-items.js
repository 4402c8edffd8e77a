/** What the search finds: jobs by id, name and labels, kinds, tags, owners, and views. */

import { JOB_ID } from "/assets/details.js";
import { urlOf } from "/assets/router.js";
import { nameText, shortId, statusText } from "/assets/format.js";

const TAG = /^[\p{L}\p{N}_:.@/-]{1,64}$/u; // as the server accepts them
const OWNER = /^[^\s{}]{1,128}$/;
const MIN_LENGTH = 2; // of a text that may be a label
const MAX_OF_A_GROUP = 6;

const VIEWS = [
  { text: "Failed jobs", href: urlOf("jobs", { query: { status: "failed" } }) },
  { text: "Failures by cause", href: urlOf("jobs", { query: { status: "failed", group: "failures" } }) },
  { text: "Queued jobs", href: urlOf("jobs", { query: { status: "queued", range: "all" } }) },
  { text: "Running jobs", href: urlOf("jobs", { query: { status: "running", range: "all" } }) },
  { text: "All jobs", href: urlOf("jobs", { query: { range: "all" } }) },
  { text: "Kinds", href: urlOf("kinds") },
  { text: "Workers", href: urlOf("workers") },
  { text: "Poison queue", href: urlOf("poison") },
];

/**
 * Return what a text finds, in groups.
 *
 * @param {string} text words that must all occur, or an id
 * @param {{jobs: object[], kinds: object[]}} known the answers of the notifier: recent jobs and all kinds
 * @returns {{title: string, items: {text: string, detail?: string, href: string}[]}[]} without empty groups
 */
export function find(text, { jobs, kinds }) {
  const words = text.toLowerCase().split(/[\s:]+/).filter(Boolean);
  const has = (value) => (word) => value.toLowerCase().includes(word);
  const hasAll = (value) => words.every(has(value));
  const listed = jobs.map((each) => (each.job ? { ...each.job, labels: each.labels ?? {} } : { ...each, labels: {} }));
  const groups = [
    { title: "Jobs", items: words.length ? [...idItems(text, listed), ...jobItems(listed.filter((job) => hasAll(jobWords(job))))] : [] },
    { title: "Kinds", items: kinds.filter(({ kind }) => words.some(has(kind))).flatMap(kindItems).filter(({ text, detail }) => hasAll(`${text} ${detail}`)) },
    { title: "Tags", items: labelItems("tag", text, listed.flatMap(({ labels }) => labels.tags ?? []), hasAll, TAG) },
    { title: "Owners", items: labelItems("owner", text, listed.map(({ labels }) => labels.owner ?? ""), hasAll, OWNER) },
    { title: "Views", items: VIEWS.filter((view) => hasAll(view.text)) },
  ];
  return groups.map(({ title, items }) => ({ title, items: items.slice(0, limitOf(title)) })).filter(({ items }) => items.length);
}

function limitOf(title) {
  return title === "Views" ? VIEWS.length : MAX_OF_A_GROUP;
}

function jobWords({ id, name = "", kind, labels: { owner = "", tags = [] } }) {
  return [id, name, kind, owner, ...tags].join(" ");
}

function jobItems(jobs) {
  return jobs.map((job) => ({
    text: nameText(job),
    detail: [job.name ? job.kind : "", shortId(job.id), statusText(job)].filter(Boolean).join(" · "),
    href: urlOf("job", { name: job.id }),
  }));
}

/** Return the job of a whole id, also if it is not among the recent ones. */
function idItems(text, jobs) {
  const id = text.trim().toLowerCase();
  if (!JOB_ID.test(id) || jobs.some((job) => job.id === id)) return [];
  return [{ text: "Open this job", detail: id, href: urlOf("job", { name: id }) }];
}

function kindItems({ kind }) {
  return [
    { text: kind, detail: "its numbers, and Run…", href: urlOf("kinds", { name: kind }) },
    { text: kind, detail: "jobs of this kind", href: urlOf("jobs", { query: { kind, range: "all" } }) },
  ];
}

/** Return the known labels that match, and at last the text itself: older jobs may have it. */
function labelItems(name, text, labels, hasAll, pattern) {
  const typed = text.trim();
  if (!typed) return [];
  const known = [...new Set(labels)].filter((label) => label && hasAll(label)).slice(0, MAX_OF_A_GROUP - 1);
  const all = typed.length >= MIN_LENGTH && pattern.test(typed) ? [...new Set([...known, typed])] : known;
  return all.map((label) => ({ text: label, detail: `jobs with this ${name}`, href: urlOf("jobs", { query: { [name]: label, range: "all" } }) }));
}
