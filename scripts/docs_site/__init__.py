"""The documentation site: the pages in docs/, the files that they link to, and the API."""
