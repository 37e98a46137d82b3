pub mod timer;
pub mod token;
