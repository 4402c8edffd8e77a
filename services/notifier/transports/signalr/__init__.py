"""The transports of SignalR clients: ASP.NET Core (`aspnet_core`), and ASP.NET of 2013 to 2018 (`classic`)."""
