//! The laboratory of the black-box tests.
