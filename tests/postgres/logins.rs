//! The login to the server: every method, every `sslmode`, and servers that lie.
