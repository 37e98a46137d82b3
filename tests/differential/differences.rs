//! Where ours differs from the reference on purpose. Each is shown by at least one scenario.

/// (id, what ours does and why).
pub const TABLE: &[(&str, &str)] = &[];
