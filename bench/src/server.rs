//! The servers under test: which are here, how each is started, and that it is gone afterwards.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::proc;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Ours,
    /// Debian's courier-base.
    Reference,
    /// accept, vfork, exec.
    BareServe,
    /// accept, close.
    BareClose,
    Tcpserver,
    Tcpsvd,
    Xinetd,
    Systemd,
}

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Ours => "couriertcpd",
            Kind::Reference => "reference",
            Kind::BareServe => "bare vfork loop",
            Kind::BareClose => "bare close loop",
            Kind::Tcpserver => "tcpserver",
            Kind::Tcpsvd => "tcpsvd",
            Kind::Xinetd => "xinetd",
            Kind::Systemd => "systemd-socket-activate",
        }
    }
}

/// Where things are.
#[derive(Debug)]
pub struct Places {
    pub ours: PathBuf,
    /// The folder that scripts/reference prints.
    pub reference: Option<PathBuf>,
    pub handler: PathBuf,
    /// This program.
    pub bench: PathBuf,
    /// For files that a run makes.
    pub work: PathBuf,
}

/// A program by its name, in PATH and where servers are.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"])
        .map(|d| Path::new(d).join(program))
        .find(|p| p.is_file())
}

impl Places {
    pub fn has(&self, kind: Kind) -> bool {
        match kind {
            Kind::Ours | Kind::BareServe | Kind::BareClose => true,
            Kind::Reference => self.reference.is_some(),
            Kind::Tcpserver => find("tcpserver").is_some(),
            Kind::Tcpsvd => find("tcpsvd").is_some(),
            Kind::Xinetd => find("xinetd").is_some(),
            Kind::Systemd => find("systemd-socket-activate").is_some(),
        }
    }

    /// The reference with its libraries; a variable for the loader would slow its handlers down.
    pub fn reference_command(&self) -> Command {
        let root = self.reference.as_deref().expect("asked for only where it is");
        let program = root.join("usr/sbin/couriertcpd");
        let loader = Path::new("/lib64/ld-linux-x86-64.so.2");
        if loader.exists() {
            let mut command = Command::new(loader);
            command.arg("--library-path").arg(root.join("lib")).arg(program);
            command
        } else {
            let mut command = Command::new(program);
            command.env("LD_LIBRARY_PATH", root.join("lib"));
            command
        }
    }
}

/// A server that runs. Killed on drop, with its handlers.
#[derive(Debug)]
pub struct Server {
    child: Child,
    pub port: u16,
}

static PORT: AtomicU16 = AtomicU16::new(2000);

/// A port that nobody used before in this network namespace, which is our own; below the range that clients get.
pub fn next_port() -> u16 {
    PORT.fetch_add(1, Ordering::Relaxed)
}

impl Server {
    /// Starts `kind` with the daemon's `options` (ours and the reference; the others have none), and waits until it
    /// listens.
    pub fn start(places: &Places, kind: Kind, options: &[&str], handler_args: &[&str]) -> io::Result<Server> {
        let port = next_port();
        let mut command = command(places, kind, options, port)?;
        let program = places.handler.to_str().unwrap_or_default();
        match kind {
            Kind::BareServe | Kind::BareClose | Kind::Xinetd => {}
            _ => {
                command.arg(program).args(handler_args);
            }
        }
        Server::launch(&mut command, port)
    }

    pub fn launch(command: &mut Command, port: u16) -> io::Result<Server> {
        // An environment as a daemon has it at boot, the same for all.
        let loader = std::env::var("LD_LIBRARY_PATH");
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        if let Ok(loader) = loader {
            command.env("LD_LIBRARY_PATH", loader);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        if std::env::var_os("BENCH_STDERR").is_none() {
            command.stderr(Stdio::null());
        }
        // A group of its own, so that all of it can be ended.
        let child = command.process_group(0).spawn()?;
        let mut server = Server { child, port };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !proc::listens(port) {
            if let Some(status) = server.child.try_wait()? {
                return Err(io::Error::other(format!("{command:?} ended: {status}")));
            }
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("{command:?} does not listen")));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(server)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: a child of ours that was not waited for.
        unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let group = -(self.child.id() as libc::pid_t);
        self.signal(libc::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(2);
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(2));
        }
        // SAFETY: the group is that of a child of ours; what is left in it are its handlers.
        unsafe { libc::kill(group, libc::SIGKILL) };
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Handlers may have left the group; whoever holds a connection has been told to go by our closing it.
    }
}

fn command(places: &Places, kind: Kind, options: &[&str], port: u16) -> io::Result<Command> {
    let mut command;
    let listen = format!("127.0.0.1.{port}");
    let found = |name: &str| find(name).ok_or_else(|| io::Error::other(format!("no {name}")));
    match kind {
        Kind::Ours => {
            command = Command::new(&places.ours);
            command.args(options).arg(listen);
        }
        Kind::Reference => {
            command = places.reference_command();
            command.args(options).arg(listen);
        }
        Kind::BareServe | Kind::BareClose => {
            command = Command::new(&places.bench);
            command.arg("bare").arg(if kind == Kind::BareServe { "serve" } else { "close" });
            command.arg(port.to_string()).arg(&places.handler);
        }
        Kind::Tcpserver => {
            // No lookups, no ident, room for everybody.
            command = Command::new(found("tcpserver")?);
            command.args(["-HRl0", "-c", "100", "-b", "4096", "127.0.0.1"]).arg(port.to_string());
        }
        Kind::Tcpsvd => {
            command = Command::new(found("tcpsvd")?);
            command.args(["-c", "100", "-b", "4096", "127.0.0.1"]).arg(port.to_string());
        }
        Kind::Xinetd => {
            let config = places.work.join(format!("xinetd-{port}.conf"));
            fs::write(&config, xinetd_config(port, &places.handler))?;
            command = Command::new(found("xinetd")?);
            command.args(["-dontfork", "-pidfile"]).arg(places.work.join("xinetd.pid")).arg("-f").arg(config);
        }
        Kind::Systemd => {
            command = Command::new(found("systemd-socket-activate")?);
            command.args(["--accept", "--inetd", "-l"]).arg(format!("127.0.0.1:{port}"));
        }
    }
    Ok(command)
}

fn xinetd_config(port: u16, handler: &Path) -> String {
    let handler = handler.display();
    format!(
        "defaults\n{{\n log_type = FILE /dev/null\n}}\nservice bench\n{{\n type = UNLISTED\n socket_type = stream\n \
         protocol = tcp\n wait = no\n user = root\n flags = NORETRY\n bind = 127.0.0.1\n port = {port}\n server = {handler}\n \
         instances = UNLIMITED\n per_source = UNLIMITED\n cps = 1000000 1\n disable = no\n}}\n"
    )
}
