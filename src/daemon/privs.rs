//! `-user` and `-group`: who the daemon becomes, for good.
//!
//! Names are resolved at start, while the name service can still be reached and an error can still
//! be told; the change itself comes after sockets and FILE and needs nothing but system calls.
//! Called by `main`'s start; the name service helpers take the same identity.

#![forbid(unsafe_code)]

use std::ffi::CString;

use nix::errno::Errno;
use nix::unistd::{
    Gid, Group, ResGid, ResUid, Uid, User, getegid, geteuid, getgrouplist, getgroups, getresgid, getresuid, setgroups,
    setresgid, setresuid, setuid,
};

use crate::error::StartError;

/// What `-user` and `-group` amount to. Empty if neither is given: then nothing is changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// None: stays as it is.
    user: Option<Uid>,
    group: Option<Gid>,
    /// All supplementary groups; none: they stay as they are.
    supplementary: Option<Vec<Gid>>,
}

/// Resolves the two options, each a name or a number.
///
/// A user of the user database brings its primary group, unless `group` is given, and its
/// supplementary groups, by number as well as by name. A number that the database does not have
/// brings none. `-group` alone leaves that one group.
pub fn resolve(user: Option<&str>, group: Option<&str>) -> Result<Identity, StartError> {
    let group = group.map(find_group).transpose()?;
    let Some(name) = user else {
        return Ok(Identity { user: None, group, supplementary: group.map(|group| vec![group]) });
    };
    match find_user(name)? {
        Account::Known(user) => {
            let group = group.unwrap_or(user.gid);
            let failed = |errno| StartError::system("cannot get the groups of -user", errno);
            let account = CString::new(user.name).map_err(|_| failed(Errno::EINVAL))?;
            let supplementary = getgrouplist(&account, group).map_err(failed)?;
            Ok(Identity { user: Some(user.uid), group: Some(group), supplementary: Some(supplementary) })
        }
        Account::Number(uid) => {
            Ok(Identity { user: Some(uid), group, supplementary: Some(group.into_iter().collect()) })
        }
    }
}

impl Identity {
    /// The ids that a process with this identity has, for a helper that is to have no more: none if
    /// nothing is changed.
    pub fn ids(&self) -> Option<(Uid, Gid)> {
        self.user.map(|user| (user, self.group.unwrap_or_else(nix::unistd::getegid)))
    }

    /// True for a user that keeps root's group, which an unknown number without `-group` does.
    pub fn keeps_root_group(&self) -> bool {
        self.user.is_some_and(|user| !user.is_root()) && self.group.is_none() && getegid().as_raw() == 0
    }

    /// Takes the identity: groups first, since only root may change them, then the user. There is
    /// no way back: real, effective and saved ids are all set. Fails if any of it fails, but for
    /// a process that is already all that is asked for.
    pub fn assume(&self) -> Result<(), StartError> {
        if let Some(groups) = &self.supplementary {
            match setgroups(groups) {
                Err(Errno::EPERM) if !geteuid().is_root() && self.groups_are_held() => {}
                result => result.map_err(|errno| StartError::system("cannot set the groups", errno))?,
            }
        }
        if let Some(group) = self.group {
            setresgid(group, group, group).map_err(|errno| StartError::system("cannot change to -group", errno))?;
            let now = getresgid().map_err(|errno| StartError::system("cannot change to -group", errno))?;
            if now != (ResGid { real: group, effective: group, saved: group }) {
                return Err(StartError::system("cannot change to -group", Errno::EPERM));
            }
        }
        if let Some(user) = self.user {
            setresuid(user, user, user).map_err(|errno| StartError::system("cannot change to -user", errno))?;
            let now = getresuid().map_err(|errno| StartError::system("cannot change to -user", errno))?;
            let regained = !user.is_root() && setuid(Uid::from_raw(0)).is_ok();
            if regained || now != (ResUid { real: user, effective: user, saved: user }) {
                return Err(StartError::system("cannot give up privileges", Errno::EPERM));
            }
        }
        Ok(())
    }

    /// A process that may not set its groups may go on with those it has if no group that it was
    /// not to have is among them.
    fn groups_are_held(&self) -> bool {
        let wanted = self.supplementary.as_deref().unwrap_or_default();
        getgroups().is_ok_and(|held| held.iter().all(|group| wanted.contains(group) || Some(*group) == self.group))
    }
}

enum Account {
    Known(User),
    /// A number that the user database does not have.
    Number(Uid),
}

fn find_user(name: &str) -> Result<Account, StartError> {
    let failed = |errno| StartError::system("cannot look up -user", errno);
    if let Some(user) = User::from_name(name).map_err(failed)? {
        return Ok(Account::Known(user));
    }
    let Some(uid) = id_number(name).map(Uid::from_raw) else {
        return Err(StartError::Unknown { option: "user", name: name.to_owned() });
    };
    Ok(User::from_uid(uid).map_err(failed)?.map_or(Account::Number(uid), Account::Known))
}

fn find_group(name: &str) -> Result<Gid, StartError> {
    let failed = |errno| StartError::system("cannot look up -group", errno);
    if let Some(group) = Group::from_name(name).map_err(failed)? {
        return Ok(group.gid);
    }
    id_number(name).map(Gid::from_raw).ok_or_else(|| StartError::Unknown { option: "group", name: name.to_owned() })
}

/// A user's or group's number. The largest one means "no change" to the system calls, and a sign
/// or a blank is a slip.
fn id_number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().filter(|&id| id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(user: Option<&str>, group: Option<&str>) -> (Option<u32>, Option<u32>, Option<Vec<u32>>) {
        let identity = resolve(user, group).unwrap();
        (
            identity.user.map(Uid::as_raw),
            identity.group.map(Gid::as_raw),
            identity.supplementary.map(|groups| groups.into_iter().map(Gid::as_raw).collect()),
        )
    }

    #[test]
    fn names_and_numbers_are_resolved() {
        let root = (Some(0), Some(0));
        for name in ["root", "0"] {
            let (user, group, supplementary) = ids(Some(name), None);
            assert_eq!((user, group), root, "{name}");
            assert!(supplementary.unwrap().contains(&0), "{name}");
        }
        let unknown = 3_999_999_999;
        assert!(User::from_uid(Uid::from_raw(unknown)).unwrap().is_none());
        assert_eq!(ids(Some("3999999999"), None), (Some(unknown), None, Some(vec![])));
        assert_eq!(ids(Some("3999999999"), Some("7")), (Some(unknown), Some(7), Some(vec![7])));
        assert_eq!(ids(None, Some("3999999999")), (None, Some(unknown), Some(vec![unknown])));
        assert_eq!(ids(None, Some("root")), (None, Some(0), Some(vec![0])));
        assert_eq!(ids(None, None), (None, None, None));
        let (_, group, supplementary) = ids(Some("root"), Some("12345"));
        assert_eq!(group, Some(12345));
        assert!(supplementary.unwrap().contains(&12345));
    }

    #[test]
    fn unknown_names_are_told_with_their_option() {
        for (user, group, text) in [
            (Some("no such"), None, "-user=no such: unknown user"),
            (Some(""), None, "-user=: unknown user"),
            (Some("1:1"), None, "-user=1:1: unknown user"),
            (Some("-1"), None, "-user=-1: unknown user"),
            (Some("4294967295"), None, "-user=4294967295: unknown user"),
            (Some("4294967296"), None, "-user=4294967296: unknown user"),
            (Some("a\0b"), None, "-user=a\0b: unknown user"),
            (None, Some("+7"), "-group=+7: unknown group"),
            (Some("root"), Some("no such"), "-group=no such: unknown group"),
        ] {
            assert_eq!(resolve(user, group).unwrap_err().to_string(), text);
        }
    }

    #[test]
    fn nothing_asked_for_changes_nothing() {
        let before = (getresuid().unwrap(), getresgid().unwrap());
        Identity::default().assume().unwrap();
        assert_eq!((getresuid().unwrap(), getresgid().unwrap()), before);
    }
}
