"""Server, clients and runs on machines of their own: keys for them, and the processes of Flower that they are."""
