//! The system's Postfix with a configuration, a port and a queue of its own: a relay to be compared with, or a server
//! that receives. The system's instance, if any, is not touched.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rcgen::{CertificateParams, KeyPair};

use crate::product::free_port;

/// How long Postfix may take to start: its own scripts check much.
const START_LIMIT: Duration = Duration::from_secs(60);

/// What it is for.
pub enum Role {
    /// Takes mail for all and hands it to this port, with so many connections at once; `milter`: another one on loopback
    /// that each message passes before.
    Relay { sink: u16, connections: u32, milter: Option<u16> },
    /// Keeps mail for these local parts of a domain, a Maildir each, and refuses others. Offers STARTTLS.
    Receiver { domain: &'static str, local_parts: &'static [&'static str] },
}

/// A running Postfix. Ended when dropped.
pub struct Postfix {
    folder: PathBuf,
    /// Where it listens on loopback.
    pub port: u16,
    /// Of its master process; all others are below it.
    pub pid: u32,
}

impl Postfix {
    /// Starts it in a folder that its user can reach.
    pub fn start(folder: &Path, role: &Role) -> Result<Postfix> {
        let port = free_port()?;
        prepare(folder, role, port)?;
        let mut postfix = Postfix { folder: folder.to_owned(), port, pid: 0 };
        postfix.control("start").context("Postfix did not start")?;
        let asked = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            if asked.elapsed() > START_LIMIT {
                bail!("Postfix does not answer on port {port}:\n{}", postfix.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let pid = fs::read_to_string(folder.join("spool/pid/master.pid")).context("Postfix has no master")?;
        postfix.pid = pid.trim().parse().context("not a process id")?;
        Ok(postfix)
    }

    /// Messages that a receiver keeps for a local part, oldest first.
    pub fn mailbox(&self, local_part: &str) -> Result<Vec<Vec<u8>>> {
        let folder = self.folder.join("mail").join(local_part).join("new");
        if !folder.is_dir() {
            return Ok(Vec::new());
        }
        let mut files: Vec<PathBuf> = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        files.sort();
        files.iter().map(|file| Ok(fs::read(file)?)).collect()
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("maillog")).unwrap_or_default()
    }

    fn control(&self, verb: &str) -> Result<()> {
        // Its scripts keep descriptors open for as long as the daemon lives: no pipe may wait for their end.
        let log = fs::File::options().create(true).append(true).open(self.folder.join("control.log"))?;
        let status = Command::new("/usr/sbin/postfix")
            .arg("-c")
            .arg(self.folder.join("conf"))
            .arg(verb)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .status()
            .context("there is no Postfix: `cargo xtask test` installs it where it may")?;
        if !status.success() {
            let said = fs::read_to_string(self.folder.join("control.log")).unwrap_or_default();
            bail!("`postfix {verb}` failed ({status}): {said}{}", self.log());
        }
        Ok(())
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        let _ = self.control("abort");
        if std::thread::panicking() {
            eprintln!("--- Postfix' log:\n{}", self.log());
        }
    }
}

/// Writes its configuration and gives its folders to whom it wants.
fn prepare(folder: &Path, role: &Role, port: u16) -> Result<()> {
    let (user, group) = account("postfix").context("there is no user `postfix`: is Postfix installed?")?;
    for name in ["conf", "spool", "data", "mail"] {
        fs::create_dir_all(folder.join(name))?;
    }
    // A temporary folder is closed to others, and Postfix' daemons are others.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    for name in ["data", "mail"] {
        chown(folder.join(name), Some(user), Some(group)).context("only root can run Postfix")?;
    }
    fs::write(folder.join("maillog"), "")?;
    let at = folder.display();
    let mut main =
        format!("{MAIN}queue_directory = {at}/spool\ndata_directory = {at}/data\nmaillog_file = {at}/maillog\n");
    main.push_str(&format!("maillog_file_prefixes = {at}\n"));
    match role {
        Role::Relay { sink, connections, milter } => main.push_str(&format!(
            "mydestination =\nmynetworks = 127.0.0.0/8\nrelayhost = [127.0.0.1]:{sink}\nsmtpd_relay_restrictions = permit_mynetworks, reject\n\
             in_flow_delay = 0\ndefault_destination_concurrency_limit = {connections}\n\
             initial_destination_concurrency = {connections}\n\
             smtp_connection_cache_destinations = [127.0.0.1]:{sink}\n{}",
            milter.map_or(String::new(), |port| format!("smtpd_milters = inet:127.0.0.1:{port}\nmilter_default_action = tempfail\n"))
        )),
        Role::Receiver { domain, local_parts } => {
            write_certificate(&folder.join("conf/tls.pem"))?;
            main.push_str(&format!(
                "mydestination =\nmynetworks =\nsmtpd_relay_restrictions = reject_unauth_destination\n\
                 virtual_mailbox_domains = {domain}\nvirtual_mailbox_base = {at}/mail\n\
                 virtual_mailbox_maps = texthash:{at}/conf/mailboxes\n\
                 virtual_uid_maps = static:{user}\nvirtual_gid_maps = static:{group}\nvirtual_minimum_uid = {user}\n\
                 smtpd_tls_security_level = may\nsmtpd_tls_chain_files = {at}/conf/tls.pem\nsmtpd_tls_received_header = yes\n"
            ));
            // A slash at the end makes a Maildir.
            let line = |local_part: &&str| format!("{local_part}@{domain} {local_part}/\n");
            fs::write(folder.join("conf/mailboxes"), local_parts.iter().map(line).collect::<String>())?;
        }
    }
    fs::write(folder.join("conf/main.cf"), main)?;
    fs::write(folder.join("conf/master.cf"), format!("127.0.0.1:{port} inet n - n - - smtpd\n{MASTER}"))?;
    Ok(())
}

fn write_certificate(file: &Path) -> Result<()> {
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec!["mx.postfix.test".to_owned()])?.self_signed(&key)?;
    fs::write(file, format!("{}{}", key.serialize_pem(), certificate.pem()))?;
    Ok(())
}

/// User and group id of an account of this system.
fn account(name: &str) -> Option<(u32, u32)> {
    let accounts = fs::read_to_string("/etc/passwd").ok()?;
    let line = accounts.lines().find(|line| line.split(':').next() == Some(name))?;
    let fields: Vec<&str> = line.split(':').collect();
    Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
}

/// For both roles: loopback alone, no look at the system's accounts, aliases or DNS, and none of the brakes that count
/// clients by address, for all come from one. A relay has no brake on mail that comes faster than it goes either.
const MAIN: &str = "\
compatibility_level = 3.6
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
shlib_directory = /usr/lib/postfix
mail_owner = postfix
setgid_group = postdrop
myhostname = postfix.relay.test
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
alias_database =
local_recipient_maps =
biff = no
smtp_dns_support_level = disabled
smtp_host_lookup = native
smtpd_peername_lookup = no
default_process_limit = 100
smtpd_client_connection_count_limit = 0
message_size_limit = 52428800
virtual_mailbox_limit = 0
";

const MASTER: &str = "\
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
virtual unix - n n - - virtual
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
";
