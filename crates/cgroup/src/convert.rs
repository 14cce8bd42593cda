//! Conversions between the versions, pure.
