//! Users and groups. Section 9. `/etc/passwd` and `/etc/group` are those of [`accounts`].

use super::scenario::{PLAIN, Scenario};
use crate::common::{Scratch, namespace};

/// The handler says its user, its group and all its groups.
const IDS: &[&str] = &["127.0.0.9.25", "/bin/sh", "-c", "id -u; id -g; id -G"];
const WHO: Scenario = Scenario { environment: &[("PATH", "/usr/bin:/bin")], arguments: IDS, ..PLAIN };

macro_rules! options {
    ($($option:expr),*) => { &["-nodnslookup", "-noidentlookup", $($option),*] };
}

#[rustfmt::skip]
pub const TABLE: &[Scenario] = &[
    Scenario { name: "nobody named", theirs: &["closed \"0\\n0\\n0\\n\""], ..WHO },
    Scenario { name: "user: name", options: options!["-user=post"],
        theirs: &["closed \"1201\\n1301\\n1301 1302 1303\\n\""], ..WHO },
    Scenario { name: "user: number", options: options!["-user=1201"], theirs: &["closed \"1201\\n0\\n0\\n\""],
        ours: Some(("user-number", &["closed \"1201\\n1301\\n1301 1302 1303\\n\""])), ..WHO },
    Scenario { name: "user: number of nobody", options: options!["-user=1299"],
        theirs: &["closed \"1299\\n0\\n0\\n\""], ..WHO },
    Scenario { name: "user: number with a group's", options: options!["-user=1201:1302"], theirs: &["exit 1"],
        ..WHO },
    Scenario { name: "group: name", options: options!["-group=letters"], theirs: &["closed \"0\\n1301\\n1301\\n\""],
        ..WHO },
    Scenario { name: "group: number", options: options!["-group=1302"], theirs: &["closed \"0\\n1302\\n1302\\n\""],
        ..WHO },
    Scenario { name: "group: number of nobody", options: options!["-group=1399"],
        theirs: &["closed \"0\\n1399\\n1399\\n\""], ..WHO },
    Scenario { name: "user and group", options: options!["-user=post", "-group=parcels"],
        theirs: &["closed \"1201\\n1302\\n1302 1303\\n\""], ..WHO },
    Scenario { name: "group and user", options: options!["-group=parcels", "-user=post"],
        theirs: &["closed \"1201\\n1302\\n1302 1303\\n\""], ..WHO },
    Scenario { name: "user: empty", options: options!["-user="], theirs: &["closed \"0\\n0\\n0\\n\""],
        ours: Some(("value-missing", &["exit 1"])), ..WHO },
    Scenario { name: "group: empty", options: options!["-group="], theirs: &["closed \"0\\n0\\n0\\n\""],
        ours: Some(("value-missing", &["exit 1"])), ..WHO },
];

/// Puts a user with a primary and two more groups in the place of the system's.
pub fn accounts() {
    let scratch = Scratch::new();
    let passwd = "root:x:0:0:root:/root:/bin/sh\npost:x:1201:1301::/nonexistent:/bin/false\n";
    let group = "root:x:0:\nletters:x:1301:\nparcels:x:1302:post\nstamps:x:1303:post\n";
    namespace::replace_file("/etc/passwd", &scratch.file("passwd", passwd));
    namespace::replace_file("/etc/group", &scratch.file("group", group));
}
