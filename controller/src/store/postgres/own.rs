//! A PostgreSQL of one's own, for measurements and tests: initialised in a temporary folder, on a free loopback port, gone
//! with the process that started it, however that ends.
//!
//! A shell keeps the server: it waits for the end of its input, which the kernel closes when our process is gone, and then
//! stops the server and deletes the folder. PostgreSQL refuses to run as root, so for root it all runs as another user.

use std::fs::Permissions;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Who runs the server when we are root.
const USERS: [&str; 2] = ["postgres", "nobody"];
/// Debian keeps the server's programs outside the search path.
const DEBIAN: &str = "/usr/lib/postgresql";
const START_WITHIN: Duration = Duration::from_secs(60);
const SUPERUSER: &str = "flotilla";

/// Starts the server whose arguments follow, and ends with our input.
const KEEPER: &str = r#"
dir=$1; shift
"$@" </dev/null >"$dir/log" 2>&1 &
server=$!
read -r word
kill -CONT "$server" 2>/dev/null
kill -QUIT "$server" 2>/dev/null
wait "$server" 2>/dev/null
# Its own place may be where only our parent may write; that one removes the rest.
[ "$word" = keep ] || rm -rf "$dir" 2>/dev/null
"#;

#[derive(Debug, thiserror::Error)]
pub enum OwnError {
    #[error("PostgreSQL's programs are neither in PATH nor under {DEBIAN}: install the package postgresql")]
    Missing,
    #[error("PostgreSQL does not run as root, and there is no user postgres or nobody")]
    NoUser,
    #[error("{what} failed: {detail}")]
    Failed { what: &'static str, detail: String },
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// A running server. Dropping it stops it and deletes its data.
#[derive(Debug)]
pub struct OwnServer {
    bin: PathBuf,
    user: Option<User>,
    dir: PathBuf,
    port: u16,
    /// Settings beside the standard ones, `name=value`.
    settings: Vec<String>,
    keeper: Option<Keeper>,
    databases: AtomicU32,
}

#[derive(Debug)]
struct Keeper {
    child: Child,
    input: ChildStdin,
}

#[derive(Debug, Clone, Copy)]
struct User {
    uid: u32,
    gid: u32,
}

impl OwnServer {
    /// Makes and starts one. `settings` are added to the server's own, such as `wal_level=logical`.
    pub fn start(settings: &[&str]) -> Result<Self, OwnError> {
        Self::start_in(&std::env::temp_dir(), settings)
    }

    /// The same, with its data on the disk of a folder.
    pub fn start_in(parent: &Path, settings: &[&str]) -> Result<Self, OwnError> {
        let bin = programs().ok_or(OwnError::Missing)?;
        let user = unprivileged()?;
        let mode = std::fs::metadata(parent)?.mode();
        if user.is_some() && mode & 0o111 != 0o111 {
            // Somebody else has to come through.
            std::fs::set_permissions(parent, Permissions::from_mode(mode | 0o111))?;
        }
        let dir = tempfile::Builder::new().prefix("flotilla-pg-").tempdir_in(parent)?.keep();
        let mut server = Self {
            bin,
            user,
            dir,
            port: 0,
            settings: settings.iter().map(|setting| (*setting).to_owned()).collect(),
            keeper: None,
            databases: AtomicU32::new(0),
        };
        if let Some(User { uid, gid }) = user {
            std::os::unix::fs::chown(&server.dir, Some(uid), Some(gid))?;
        }
        // Only this step may be unsafe: nobody needs a folder that was being made when the power went.
        let mut init = server.command("initdb");
        init.args(["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions", "-U", SUPERUSER]);
        succeed("initdb", init.arg("-D").arg(server.data()))?;
        server.run()?;
        Ok(server)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its data and its log; whatever else is put there goes with them.
    pub fn folder(&self) -> &Path {
        &self.dir
    }

    /// Makes an empty database and gives its URL.
    pub fn database(&self) -> Result<String, OwnError> {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name}"))?;
        Ok(self.url(&name))
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres://{SUPERUSER}@127.0.0.1:{}/{database}", self.port)
    }

    /// Runs statements as the superuser; gives what they print, columns separated by `|`.
    pub fn sql(&self, database: &str, statements: &str) -> Result<String, OwnError> {
        let mut psql = self.command("psql");
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", SUPERUSER]);
        psql.args(["-p", &self.port.to_string(), "-d", database, "-c", statements]);
        succeed("psql", &mut psql)
    }

    /// Ends all its processes at once, as a crash does. [`OwnServer::restart`] brings it back on the same port.
    pub fn crash(&mut self) -> Result<(), OwnError> {
        self.stop("keep")
    }

    pub fn restart(&mut self) -> Result<(), OwnError> {
        self.stop("keep")?;
        self.run_on(self.port)
    }

    /// The server's main process, for signals.
    pub fn pid(&self) -> Result<u32, OwnError> {
        let text = std::fs::read_to_string(self.data().join("postmaster.pid"))?;
        let pid = text.lines().next().and_then(|line| line.trim().parse().ok());
        pid.ok_or(OwnError::Failed { what: "reading postmaster.pid", detail: text })
    }

    /// What a crash at this moment would leave, as a second server: all processes are frozen while the files are copied.
    pub fn crashed_copy(&self) -> Result<Self, OwnError> {
        let dir = tempfile::Builder::new().prefix("flotilla-pg-").tempdir()?.keep();
        let mut copy = Self {
            bin: self.bin.clone(),
            user: self.user,
            dir,
            port: 0,
            settings: self.settings.clone(),
            keeper: None,
            databases: AtomicU32::new(self.databases.load(Ordering::Relaxed)),
        };
        if let Some(User { uid, gid }) = copy.user {
            std::os::unix::fs::chown(&copy.dir, Some(uid), Some(gid))?;
        }
        self.freeze()?;
        let copied = succeed("cp", copy.shell("cp").arg("-a").arg("--reflink=auto").arg(self.data()).arg(copy.data()));
        self.signal_all("CONT")?;
        copied?;
        // Whose process it names is another server.
        std::fs::remove_file(copy.data().join("postmaster.pid"))?;
        copy.run()?;
        Ok(copy)
    }

    /// Stops all processes, and returns when they stand still.
    fn freeze(&self) -> Result<(), OwnError> {
        self.signal_all("STOP")?;
        let main = self.pid()?;
        let children = std::fs::read_to_string(format!("/proc/{main}/task/{main}/children"))?;
        for pid in children.split_whitespace().map(ToOwned::to_owned).chain([main.to_string()]) {
            // The state stands behind the name, which ends with the last parenthesis.
            let runs = || {
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
                Some(!matches!(stat.rsplit_once(") ")?.1.chars().next()?, 'T' | 'Z'))
            };
            while runs() == Some(true) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    /// Sends a signal to the main process and all its children, such as `STOP`.
    pub fn signal_all(&self, signal: &str) -> Result<(), OwnError> {
        let main = self.pid()?;
        // The main process first: a stopped one starts no more children.
        succeed("kill", Command::new("kill").arg(format!("-{signal}")).arg(main.to_string()))?;
        let tasks = std::fs::read_to_string(format!("/proc/{main}/task/{main}/children"))?;
        for child in tasks.split_whitespace() {
            // One that has just ended is as good as stopped.
            let _ = succeed("kill", Command::new("kill").arg(format!("-{signal}")).arg(child));
        }
        Ok(())
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Somebody else may take the free port first; then another one is tried.
    fn run(&mut self) -> Result<(), OwnError> {
        let mut tries = 0;
        loop {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
            match self.run_on(port) {
                Err(OwnError::Failed { detail, .. }) if tries < 5 && detail.contains("in use") => tries += 1,
                done => return done,
            }
        }
    }

    fn run_on(&mut self, port: u16) -> Result<(), OwnError> {
        self.port = port;
        let mut keeper = self.shell("sh");
        keeper.args(["-c", KEEPER, "keeper"]).arg(&self.dir).arg(self.bin.join("postgres"));
        keeper.arg("-D").arg(self.data()).args(["-p", &port.to_string()]);
        for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=300"] {
            keeper.args(["-c", setting]);
        }
        for setting in &self.settings {
            keeper.args(["-c", setting]);
        }
        // A Ctrl-C in the terminal is for us; the keeper has its input.
        let mut child = keeper.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let input = child.stdin.take().ok_or_else(|| std::io::Error::other("the keeper has no input"))?;
        self.keeper = Some(Keeper { child, input });
        self.wait_until_ready()
    }

    fn wait_until_ready(&mut self) -> Result<(), OwnError> {
        let end = Instant::now() + START_WITHIN;
        loop {
            let mut ready = self.command("pg_isready");
            ready.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
            if ready.status()?.success() {
                return Ok(());
            }
            let log = || std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            // It says so in its last words; the keeper goes on waiting for us.
            if Instant::now() > end
                || log().contains("FATAL:  could not")
                || log().contains("database system is shut down")
            {
                let detail = log();
                self.stop("keep")?;
                return Err(OwnError::Failed { what: "starting PostgreSQL", detail });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn stop(&mut self, word: &str) -> Result<(), OwnError> {
        let Some(Keeper { mut child, mut input }) = self.keeper.take() else { return Ok(()) };
        writeln!(input, "{word}")?;
        drop(input);
        child.wait()?;
        Ok(())
    }

    fn command(&self, program: &str) -> Command {
        self.as_user(Command::new(self.bin.join(program)))
    }

    fn shell(&self, program: &str) -> Command {
        self.as_user(Command::new(program))
    }

    fn as_user(&self, mut command: Command) -> Command {
        // Where we are, the other user may not be allowed to be.
        command.current_dir("/").env("LC_ALL", "C").env_remove("PGOPTIONS");
        if let Some(User { uid, gid }) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        let stopped = self.stop("delete");
        if stopped.is_err() || self.dir.exists() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

fn succeed(what: &'static str, command: &mut Command) -> Result<String, OwnError> {
    let done = command.stdin(Stdio::null()).output()?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).trim_end().to_owned());
    }
    let detail = String::from_utf8_lossy(&done.stderr).trim_end().to_owned();
    Err(OwnError::Failed { what, detail })
}

/// The folder with the server's programs, of the highest version.
fn programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let debian = std::fs::read_dir(DEBIAN).into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = debian
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort();
    let has_all = |dir: &Path| ["initdb", "postgres", "psql"].iter().all(|name| dir.join(name).is_file());
    std::env::split_paths(&path).chain(versions.into_iter().rev().map(|(_, dir)| dir)).find(|dir| has_all(dir))
}

fn unprivileged() -> Result<Option<User>, OwnError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = std::fs::read_to_string("/etc/passwd")?;
    let find = |wanted: &&str| {
        let fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let found = fields.into_iter().find(|fields| fields.first() == Some(wanted) && fields.len() > 3)?;
        Some(User { uid: found[2].parse().ok()?, gid: found[3].parse().ok()? })
    };
    USERS.iter().find_map(find).map(Some).ok_or(OwnError::NoUser)
}
