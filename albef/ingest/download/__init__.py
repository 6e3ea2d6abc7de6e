"""Downloading the pictures of a list: addresses, one request, hosts and retries, what is kept."""
