//! Stub, filled in by its owner. *Pure.*
