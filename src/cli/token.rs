//! `token`: keys, tokens for the list, and signed tokens as narrow as can be.

use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};

use super::files::write_out;
use super::{DONE, Failure, Outcome};
use crate::config::duration;
use crate::identity::{self, Audience, Claims, Grant, Role};

/// `fanout token`.
#[derive(Debug, Args)]
pub(super) struct Token {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a key for signing tokens, and the key set that `fanout serve --jwks` is to believe.
    Key {
        /// Where to write the key (PEM). It is a secret: whoever has it can make any token. Nothing is overwritten.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Where to write the key set (JSON).
        #[arg(long, value_name = "FILE")]
        jwks: PathBuf,
        /// Name of the key, which tokens are to say.
        #[arg(long, value_name = "ID", default_value = "1")]
        key_id: String,
    },
    /// Make a signed token, and print it.
    ///
    /// What a sandbox should get may submit for its own task and nothing else:
    /// `fanout token issue --key key.pem --issuer ci --name box-7 --role submit --plan P --task T --life 1h`
    Issue(Box<Issue>),
    /// Make a token for the list of `fanout serve --tokens`: print it, and on standard error its entry.
    New {
        /// What logs call whoever has it.
        #[arg(long)]
        name: String,
        #[command(flatten)]
        grant: GrantOptions,
    },
    /// Read a token from standard input, and print its hash as the list has it.
    Hash,
}

/// What a token allows.
#[derive(Debug, Args)]
struct GrantOptions {
    /// What may be done; several, separated by commas.
    #[arg(long = "role", required = true, value_delimiter = ',', value_parser = role)]
    roles: Vec<Role>,
    /// Whose plans. Without it: those of the tenant without a name.
    #[arg(long, default_value = "")]
    tenant: String,
    /// The only plan.
    #[arg(long)]
    plan: Option<String>,
    /// The only task of it; then the only role is submit.
    #[arg(long, requires = "plan")]
    task: Option<String>,
    /// The session that works on it. Without it records may not name any.
    #[arg(long, requires = "task")]
    session: Option<String>,
}

#[derive(Debug, Args)]
struct Issue {
    /// The key to sign with.
    #[arg(long, env = "FANOUT_TOKEN_KEY", value_name = "FILE")]
    key: PathBuf,
    /// Its name.
    #[arg(long, value_name = "ID", default_value = "1")]
    key_id: String,
    /// Who makes it, as `fanout serve --jwt-issuer` has it.
    #[arg(long)]
    issuer: String,
    /// Whom it is for, as `fanout serve --jwt-audience` has it.
    #[arg(long, default_value = "fanout")]
    audience: String,
    /// What logs call whoever has it.
    #[arg(long)]
    name: String,
    /// How long it is good for: at least 1s.
    #[arg(long, default_value = "1h", value_name = "TIME", value_parser = life)]
    life: Duration,
    #[command(flatten)]
    grant: GrantOptions,
}

/// A token says in whole seconds when it expires.
fn life(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        time if time >= Duration::from_secs(1) => Ok(time),
        _ => Err("is less than 1s".to_owned()),
    }
}

fn role(text: &str) -> Result<Role, String> {
    let known = Role::ALL.into_iter().find(|role| role.name() == text);
    known.ok_or_else(|| "is not submit, lease, plan, watch or operate".to_owned())
}

impl GrantOptions {
    fn grant(self) -> Grant {
        Grant {
            tenant: self.tenant,
            roles: self.roles,
            plan: self.plan,
            task: self.task,
            session: self.session,
        }
    }
}

pub(super) fn token(command: Token) -> Outcome {
    match command.command {
        Command::Key { key, jwks, key_id } => {
            let (secret, set) = identity::new_key(&key_id).map_err(Failure::new)?;
            write_new(&key, &secret, true)?;
            write_new(&jwks, &set, false)?;
        }
        Command::Issue(issue) => {
            write_out(&(self::issue(*issue)? + "\n"))?;
        }
        Command::New { name, grant } => {
            let token = identity::new_token().map_err(Failure::new)?;
            eprint!("{}", entry(&name, &token, grant.grant())?);
            write_out(&(token + "\n"))?;
        }
        Command::Hash => {
            let mut token = String::new();
            let most = identity::TOKEN_BYTES_MAX as u64 + 2;
            std::io::stdin().take(most).read_to_string(&mut token)?;
            let token = token.trim();
            if token.is_empty() {
                return Err(Failure::new("standard input: there is no token"));
            }
            write_out(&(hex(&identity::digest(token)) + "\n"))?;
        }
    }
    Ok(DONE)
}

fn issue(issue: Issue) -> Result<String, Failure> {
    let key = std::fs::read(&issue.key)
        .map_err(|error| Failure::new(format!("{}: {error}", issue.key.display())))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default().as_secs();
    let claims = Claims {
        iss: issue.issuer,
        aud: Audience::One(issue.audience),
        sub: issue.name,
        exp: now.saturating_add(issue.life.as_secs()),
        nbf: None,
        fanout: issue.grant.grant(),
    };
    identity::issue(&claims, Some(&issue.key_id), &key).map_err(Failure::new)
}

/// A token's entry in the list.
fn entry(name: &str, token: &str, grant: Grant) -> Result<String, Failure> {
    let Grant {
        tenant,
        roles,
        plan,
        task,
        session,
    } = grant;
    let text = |text: &str| toml::Value::from(text).to_string();
    let mut entry = format!(
        "[[token]]\nname = {}\nsha256 = \"{}\"\n",
        text(name),
        hex(&identity::digest(token))
    );
    let roles: Vec<String> = roles.iter().map(|role| text(role.name())).collect();
    entry += &format!("roles = [{}]\n", roles.join(", "));
    let tenant = (!tenant.is_empty()).then_some(tenant);
    for (key, value) in [
        ("tenant", tenant),
        ("plan", plan),
        ("task", task),
        ("session", session),
    ] {
        if let Some(value) = value {
            entry += &format!("{key} = {}\n", text(&value));
        }
    }
    identity::Authority::new(Some(&entry), None).map_err(Failure::new)?;
    Ok(entry)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a file that is not there yet; a secret one only its owner can read.
fn write_new(path: &Path, text: &str, secret: bool) -> Result<(), Failure> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(if secret { 0o600 } else { 0o644 });
    }
    let written = options.open(path).and_then(|mut file| {
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
    });
    written.map_err(|error| {
        let advice = match error.kind() {
            ErrorKind::AlreadyExists => "; nothing is overwritten; name another file",
            _ => "",
        };
        Failure::new(format!("{}: {error}{advice}", path.display()))
    })
}
