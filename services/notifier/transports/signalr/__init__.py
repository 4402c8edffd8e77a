"""The transports of SignalR clients: ASP.NET Core (`core`), and ASP.NET of 2013 to 2018 (`classic`)."""
