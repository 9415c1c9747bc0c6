//! End-to-end tests: see `tests/e2e`. They run the program itself, with real Redis and real SMTP clients.
