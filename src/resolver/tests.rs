#[path = "../../tests/common/dns.rs"]
pub mod dns;
