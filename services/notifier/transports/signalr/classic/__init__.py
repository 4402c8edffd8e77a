"""The hub of ASP.NET SignalR 2: for the jQuery client and the .NET client of 2013 to 2020."""
