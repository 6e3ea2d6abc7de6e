"""Download of the images of a list: addresses, requests, hosts, retries and stored results."""
