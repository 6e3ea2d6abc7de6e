"""HTTP server for exported models. No torch."""
