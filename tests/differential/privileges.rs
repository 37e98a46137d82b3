//! Users and groups. Section 9.

use super::scenario::{PLAIN, Scenario};

pub const TABLE: &[Scenario] = &[];
