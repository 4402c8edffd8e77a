/** The hub of Headway for the jQuery client of ASP.NET SignalR: `$.connection.jobProgressHub`. */
(function ($) {
  "use strict";
  if (typeof $.signalR !== "function") throw new Error("Load the script of SignalR before this one.");

  var script = document.currentScript;
  var match = script && /^(.*)\/(hubs|js)\/?([?#].*)?$/i.exec(script.src);
  var base = match ? match[1] : "/signalr"; // as part of another script, it does not know its own URL

  // The wrapper has the same text for `on` and `off`, because clients before 2.4 compare texts.
  function wrap(hub, callback) {
    return function () {
      callback.apply(hub, $.makeArray(arguments));
    };
  }

  function each(proxies, action) {
    for (var name in proxies) {
      var hub = proxies[name];
      for (var method in hub.client) {
        var callback = hub.client[method];
        if (typeof callback === "function") hub[action](method, wrap(hub, callback), callback);
      }
    }
  }

  $.hubConnection.prototype.createHubProxies = function () {
    var proxies = {};
    this.starting(function () {
      each(proxies, "on");
      this._registerSubscribedHubs();
    }).disconnected(function () {
      each(proxies, "off");
    });
    proxies.jobProgressHub = this.createHubProxy("jobProgressHub");
    proxies.jobProgressHub.client = {};
    proxies.jobProgressHub.server = {};
    return proxies;
  };

  $.signalR.hub = $.hubConnection(base, { useDefaultPath: false });
  $.extend($.signalR, $.signalR.hub.createHubProxies());
})(window.jQuery);
