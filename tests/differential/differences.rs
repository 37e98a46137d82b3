//! Where ours differs from the reference on purpose. Each is shown by at least one scenario.

/// (id, what ours does and why).
pub const TABLE: &[(&str, &str)] = &[
    ("access-missing", "an access file that cannot be read: no start; the reference lets everybody in"),
    ("alert-once", "what any stranger can provoke is written once a minute; the reference writes each"),
    ("deny-case", "`deny` counts in any case of letters; the reference takes DENY as a variable"),
    ("denymsg-crlf", "the message ends with CR LF, as mail protocols want, and no reset destroys it"),
    ("denymsg-local", "the message is sent too if the record of the local address refuses"),
    ("double-dash", "two dashes before an option, and `--` behind the last"),
    ("drop-several", "-drop=A,B looks at both; the reference at the first alone"),
    ("empty-assignment", "an assignment without a name is skipped; the reference makes a variable of it"),
    ("flag-value", "a value for an option that takes none is an error"),
    ("freebind", "an address that the host does not have yet can be listened on"),
    ("help", "-help and -version are known"),
    ("list-colon", "ADDRESS:PORT and [IPV6]:PORT are taken as they are meant"),
    ("maxperc-logged", "a refusal by -maxperc is logged"),
    ("missing-program", "a program that cannot run: no start; the reference closes each connection"),
    ("numbers", "a number with something behind it is none; the reference reads its beginning"),
    ("short-address", "an IPv4 address has four parts"),
    ("stale-variables", "the daemon's own TCP... variables do not reach the handler"),
    ("user-number", "a user given by number brings its groups; the reference keeps the daemon's"),
    ("value-missing", "an option without the value it needs is an error; the reference ignores the option"),
];
