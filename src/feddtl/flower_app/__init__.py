"""The apps that Flower loads in its own processes: `server.app` and `client.app`."""
