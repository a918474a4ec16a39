//! The setting `jdbc.url`: which database, and how to reach it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::dialect::{Dialect, MYSQL, SQLITE};

const MYSQL_PORT: u16 = 3306;

/// Where the database is. Its password is in no text that this type writes.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(Place);

#[derive(Clone, PartialEq, Eq)]
enum Place {
    File(PathBuf),
    Server(Server),
}

/// A MySQL or MariaDB server. User, password and database are kept with percent escapes.
#[derive(Clone, PartialEq, Eq)]
struct Server {
    host: String,
    port: u16,
    database: String,
    user: String,
    password: Option<String>,
    ssl_mode: &'static str,
    ssl_ca: Option<String>,
}

/// Why a `jdbc.url` cannot be used. The text itself is not repeated: it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseUrlError {
    /// A kind of database this version cannot talk to.
    #[error(
        "{0} databases are not supported by this version; use sqlite:PATH or mysql://HOST:PORT/NAME"
    )]
    Unsupported(String),
    /// Not `kind:place`.
    #[error("not a database URL; use sqlite:PATH or mysql://HOST:PORT/NAME")]
    Malformed,
    /// Java drivers take a list of hosts.
    #[error(
        "several hosts are not supported: name one, or an address that moves with the database"
    )]
    Hosts,
    /// No name of a database behind the host.
    #[error("the name of the database is missing: mysql://HOST:PORT/NAME")]
    NoDatabase,
    /// A word for TLS that means nothing.
    #[error("unknown sslMode {0}; use DISABLED, PREFERRED, REQUIRED, VERIFY_CA or VERIFY_IDENTITY")]
    SslMode(String),
}

impl DatabaseUrl {
    /// The embedded database in a file.
    #[must_use]
    pub fn of_file(path: &Path) -> Self {
        Self(Place::File(path.to_owned()))
    }

    /// The file of an embedded database.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match &self.0 {
            Place::File(path) => Some(path),
            Place::Server(_) => None,
        }
    }

    /// Sets user and password, which win over those of the URL. Without effect on a file.
    #[must_use]
    pub fn with_credentials(mut self, user: Option<&str>, password: Option<&str>) -> Self {
        if let Place::Server(server) = &mut self.0 {
            if let Some(user) = user {
                server.user = escape(user);
            }
            if let Some(password) = password {
                server.password = Some(escape(password));
            }
        }
        self
    }

    pub(super) fn dialect(&self) -> &'static Dialect {
        match &self.0 {
            Place::File(_) => &SQLITE,
            Place::Server(_) => &MYSQL,
        }
    }

    /// What the driver is given, password included.
    pub(super) fn connect_url(&self) -> String {
        let server = match &self.0 {
            Place::File(path) => {
                // The driver cuts the URL at the first question mark and un-escapes percent signs.
                let path = path.to_string_lossy();
                let path = path.replace('%', "%25").replace('?', "%3F");
                return format!("sqlite:{path}?mode=rwc");
            }
            Place::Server(server) => server,
        };
        let Server {
            host,
            port,
            database,
            user,
            ssl_mode,
            ..
        } = server;
        let password = server.password.as_deref().unwrap_or_default();
        let mut url =
            format!("mysql://{user}:{password}@{host}:{port}/{database}?ssl-mode={ssl_mode}");
        if let Some(path) = &server.ssl_ca {
            url.push_str("&ssl-ca=");
            url.push_str(&escape(path));
        }
        url
    }
}

impl FromStr for DatabaseUrl {
    type Err = DatabaseUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let text = text.strip_prefix("jdbc:").unwrap_or(text);
        let (kind, place) = text.split_once(':').ok_or(DatabaseUrlError::Malformed)?;
        match kind {
            "sqlite" => {
                let path = place.strip_prefix("//").unwrap_or(place);
                if path.is_empty() || path.contains('?') {
                    return Err(DatabaseUrlError::Malformed);
                }
                Ok(Self::of_file(Path::new(path)))
            }
            "mysql" | "mariadb" => Ok(Self(Place::Server(Server::parse(place)?))),
            // A word before the place is a mode of Java drivers with several hosts.
            _ if !kind.chars().all(|c| c.is_ascii_alphanumeric()) => {
                Err(DatabaseUrlError::Malformed)
            }
            _ => Err(DatabaseUrlError::Unsupported(kind.to_owned())),
        }
    }
}

impl Server {
    /// Reads `//[user[:password]@]host[:port]/database[?parameters]`.
    fn parse(place: &str) -> Result<Self, DatabaseUrlError> {
        let Some(place) = place.strip_prefix("//") else {
            return Err(DatabaseUrlError::Hosts);
        };
        let (place, parameters) = place.split_once('?').unwrap_or((place, ""));
        let (authority, database) = place.split_once('/').unwrap_or((place, ""));
        let (credentials, address) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = match credentials.split_once(':') {
            Some((user, password)) => (user, Some(password.to_owned())),
            None => (credentials, None),
        };
        if address.contains([',', '(', ')']) {
            return Err(DatabaseUrlError::Hosts);
        }
        let (host, port) = split_port(address).ok_or(DatabaseUrlError::Malformed)?;
        if database.is_empty() || database.contains('/') {
            return Err(DatabaseUrlError::NoDatabase);
        }
        let mut server = Self {
            host: host.to_owned(),
            port,
            database: database.to_owned(),
            user: user.to_owned(),
            password,
            ssl_mode: "PREFERRED",
            ssl_ca: None,
        };
        for (key, value) in form_urlencoded::parse(parameters.as_bytes()) {
            server.take_parameter(&key, &value)?;
        }
        Ok(server)
    }

    /// Parameters of Java drivers that mean something here; all others are ignored.
    fn take_parameter(&mut self, key: &str, value: &str) -> Result<(), DatabaseUrlError> {
        match key {
            "user" => self.user = escape(value),
            "password" => self.password = Some(escape(value)),
            "useSSL" if value.eq_ignore_ascii_case("false") => self.ssl_mode = "DISABLED",
            "requireSSL" if value.eq_ignore_ascii_case("true") => self.ssl_mode = "REQUIRED",
            "sslMode" | "sslmode" | "ssl-mode" => {
                let mode = value.to_ascii_uppercase().replace('-', "_");
                self.ssl_mode = match mode.as_str() {
                    "DISABLED" | "DISABLE" => "DISABLED",
                    "PREFERRED" => "PREFERRED",
                    "REQUIRED" | "TRUST" => "REQUIRED",
                    "VERIFY_CA" => "VERIFY_CA",
                    "VERIFY_IDENTITY" | "VERIFY_FULL" => "VERIFY_IDENTITY",
                    _ => return Err(DatabaseUrlError::SslMode(value.to_owned())),
                };
            }
            "sslCa" | "ssl-ca" | "serverSslCert" => self.ssl_ca = Some(value.to_owned()),
            _ => {}
        }
        Ok(())
    }
}

/// Host and port; an IPv6 address stands in brackets. `None` when it is neither.
fn split_port(address: &str) -> Option<(&str, u16)> {
    let colon = address
        .rfind(':')
        .filter(|at| !address[*at..].contains(']'));
    let (host, port) = match colon {
        Some(at) => (&address[..at], address[at + 1..].parse().ok()?),
        None => (address, MYSQL_PORT),
    };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    (!host.is_empty() && host.chars().all(is_plain)).then_some((host, port))
}

/// Everything but letters and digits as percent escapes.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::File(path) => write!(f, "sqlite:{}", path.display()),
            Place::Server(server) => write!(
                f,
                "mysql://{}:{}/{}",
                server.host, server.port, server.database
            ),
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> DatabaseUrl {
        text.parse().unwrap()
    }

    fn refused(text: &str) -> DatabaseUrlError {
        text.parse::<DatabaseUrl>().unwrap_err()
    }

    #[test]
    fn reads_places_of_files() {
        let path = |text: &str| parsed(text).path().map(Path::to_owned);
        assert_eq!(path("sqlite:data/m.db"), Some("data/m.db".into()));
        assert_eq!(path("jdbc:sqlite:/d/m.db"), Some("/d/m.db".into()));
        assert_eq!(path("sqlite:///d/m.db"), Some("/d/m.db".into()));
        assert_eq!(refused("sqlite:"), DatabaseUrlError::Malformed);
        assert_eq!(refused("m.db"), DatabaseUrlError::Malformed);
    }

    #[test]
    fn reads_places_of_servers() {
        let driver = |text: &str| parsed(text).connect_url();
        assert_eq!(
            driver("jdbc:mysql://db.local:3307/qmq?useUnicode=true&characterEncoding=UTF-8&x=%y"),
            "mysql://:@db.local:3307/qmq?ssl-mode=PREFERRED"
        );
        assert_eq!(
            driver("jdbc:mariadb://[::1]/qmq?useSSL=false"),
            "mysql://:@[::1]:3306/qmq?ssl-mode=DISABLED"
        );
        assert_eq!(
            driver("mysql://me:p%40ss@10.0.0.1/qmq?sslMode=verify-full&ssl-ca=/ca.pem"),
            "mysql://me:p%40ss@10.0.0.1:3306/qmq?ssl-mode=VERIFY_IDENTITY&ssl-ca=%2Fca%2Epem"
        );
        assert_eq!(
            driver("jdbc:mysql://h/qmq?user=a b&password=%26"),
            "mysql://a%20b:%26@h:3306/qmq?ssl-mode=PREFERRED"
        );
    }

    #[test]
    fn refuses_what_it_cannot_do() {
        assert_eq!(
            refused("jdbc:postgresql://h/qmq"),
            DatabaseUrlError::Unsupported("postgresql".into())
        );
        let hosts = DatabaseUrlError::Hosts;
        assert_eq!(refused("jdbc:mysql://a:3306,b:3306/qmq"), hosts);
        assert_eq!(refused("jdbc:mysql:loadbalance://a,b/qmq"), hosts);
        assert_eq!(refused("mysql://h:3306"), DatabaseUrlError::NoDatabase);
        assert_eq!(refused("mysql://h:port/qmq"), DatabaseUrlError::Malformed);
        assert_eq!(refused("mysql:///qmq"), DatabaseUrlError::Malformed);
        assert!(matches!(
            refused("mysql://h/q?sslMode=maybe"),
            DatabaseUrlError::SslMode(_)
        ));
    }

    #[test]
    fn credentials_win_over_the_url_and_are_never_shown() {
        let url =
            parsed("mysql://old:hunter1@h/qmq").with_credentials(Some("new"), Some("hunter/2"));
        assert_eq!(
            url.connect_url(),
            "mysql://new:hunter%2F2@h:3306/qmq?ssl-mode=PREFERRED"
        );
        let kept = parsed("mysql://old:hunter1@h/qmq").with_credentials(None, None);
        assert!(kept.connect_url().starts_with("mysql://old:hunter1@h"));
        for shown in [format!("{url} {url:?}"), format!("{kept} {kept:?}")] {
            assert!(
                !shown.contains("hunter") && shown.contains("mysql://h:3306/qmq"),
                "{shown}"
            );
        }
    }
}
