//! Where ours differs from the reference on purpose. Each is shown by at least one scenario.

/// (id, what ours does and why).
pub const TABLE: &[(&str, &str)] = &[
    (
        "access-missing",
        "an access file that cannot be read keeps the daemon from starting; the reference lets everybody in",
    ),
    ("alert-once", "a message that any stranger can provoke is written once a minute; the reference writes each"),
    (
        "deny-case",
        "`deny` counts in any case of letters; the reference takes DENY as a variable and lets the client in",
    ),
    ("denymsg-crlf", "the message ends with CR LF, as mail protocols want, and is not lost to a reset"),
    ("denymsg-local", "the message is sent too if the record of the local address refuses"),
    ("double-dash", "two dashes before an option, and `--` behind the last"),
    ("drop-several", "-drop=A,B looks at both; the reference at the first alone"),
    ("empty-assignment", "an assignment without a name is skipped; the reference makes a variable without a name"),
    ("help", "-help and -version are known"),
    ("list-colon", "ADDRESS:PORT and [IPV6]:PORT are taken as they are meant"),
    ("maxperc-logged", "a refusal by -maxperc is logged"),
    (
        "missing-program",
        "a program that cannot run keeps the daemon from starting; the reference closes each connection",
    ),
    ("numbers", "a number with something behind it is an error; the reference reads its beginning"),
    ("short-address", "an IPv4 address has four parts"),
    ("user-number", "a user given by its number brings its groups too; the reference keeps the daemon's, root's"),
    ("stale-variables", "the daemon's own TCP... variables do not reach the handler"),
];
