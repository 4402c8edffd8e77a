// The page of 2015: it shows the progress in its span, and prints what its functions are called with.
function watchJob({ jobId, token, transport }, print) {
  const hub = $.connection.jobProgressHub;
  hub.client.updateProgress = (percent) => {
    $("#progress").text(`${percent}%`);
    print("progress", percent);
  };
  hub.client.jobChanged = ({ status, version, progress }) => {
    print("snapshot", status, version, progress?.percent ?? null);
    if (status === "succeeded") {
      print("shown", $("#progress").text());
      $.connection.hub.stop();
    }
  };
  $.connection.hub.reconnecting(() => print("lost"));
  $.connection.hub.reconnected(() => print("connected"));
  $.connection.hub.disconnected(() => print("closed", null));
  $.connection.hub.qs = { jobId, token };
  $.connection.hub.start({ transport }).then(
    () => print("connected", $.connection.hub.transport.name),
    (error) => print("error", String(error)),
  );
}
