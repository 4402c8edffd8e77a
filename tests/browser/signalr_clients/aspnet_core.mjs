// Watches a job with the client of ASP.NET Core until it ends; `print` gets what the client is called with.
// After a reconnect, a page names again what it watches by a method, with the last version that it has.
export async function watchJob({ HttpTransportType, HubConnectionBuilder, LogLevel }, MessagePackHubProtocol, options, print) {
  const { url, jobId, token, transport, protocol, watch } = options;
  const target = watch === "url" ? `${url}?jobId=${jobId}` : url;
  let builder = new HubConnectionBuilder()
    .withUrl(target, { accessTokenFactory: watch === "url" ? () => token : undefined, transport: HttpTransportType[transport] })
    .withAutomaticReconnect()
    .configureLogging(LogLevel.Critical);
  if (protocol === "messagepack") builder = builder.withHubProtocol(new MessagePackHubProtocol());
  const connection = builder.build();

  let lastVersion = null;
  let end;
  const ended = new Promise((resolve) => (end = resolve));
  const onSnapshot = ({ status, version, progress }) => {
    lastVersion = version;
    print("snapshot", status, version, progress?.percent ?? null);
    if (status === "succeeded" && watch !== "stream") end();
  };
  const subscribe = async () => {
    if (watch === "method") await connection.invoke("Watch", token, lastVersion);
    if (watch === "stream") {
      const error = () => {}; // the connection is lost: the next one opens the stream again
      connection.stream("WatchJob", token, lastVersion).subscribe({ next: onSnapshot, complete: end, error });
    }
  };
  connection.on("updateProgress", (percent) => print("progress", percent));
  connection.on("jobChanged", onSnapshot);
  connection.on("watchError", (error) => print("error", error));
  connection.onreconnecting(() => print("lost"));
  connection.onreconnected(() => subscribe().then(() => print("connected"), () => {})); // unless it is lost again
  connection.onclose((error) => print("closed", error?.message ?? null));

  await connection.start();
  await subscribe();
  for (const [method, ...values] of [["Nothing"], ["Watch"], ["Watch", "wrong"], ["Cancel", crypto.randomUUID()]]) {
    print("failed", await connection.invoke(method, ...values).then(String, ({ message }) => message));
  }
  print("connected");
  await ended;
  await connection.stop();
}
