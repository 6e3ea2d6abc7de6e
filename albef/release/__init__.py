"""Decision whether an export may go to production: measurement, gate, trial and attestation."""
