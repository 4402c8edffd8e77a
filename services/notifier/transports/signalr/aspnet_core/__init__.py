"""The hub of ASP.NET Core SignalR: https://github.com/dotnet/aspnetcore/tree/main/src/SignalR/docs/specs."""
