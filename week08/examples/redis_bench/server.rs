//! Which server is measured? One given by a URL, or one of its own.

use std::ffi::OsString;
use std::io;
use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context as _, bail};
use lab::servers::Redis;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use crate::resp::{Command, Problem, Replies, encode};

/// The address of a server, and what a new connection has to send first.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    info: ConnectionInfo,
}

/// How clients reach a server that the tool has started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Transport {
    /// TCP on loopback.
    Tcp,
    /// A Unix socket.
    Unix,
}

/// A connection.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// How long a command that is not measured may take.
const TIMEOUT: Duration = Duration::from_secs(10);

impl Server {
    /// # Errors
    ///
    /// When the URL is wrong, or asks for TLS.
    pub(crate) fn at(url: &str) -> anyhow::Result<Self> {
        let info = url.into_connection_info().context("the URL is wrong")?;
        if let ConnectionAddr::TcpTls { .. } = info.addr() {
            bail!("TLS is not supported: use redis:// or redis+unix://");
        }
        Ok(Self { info })
    }

    /// Returns the address of a server that the tool has started. The server
    /// listens on a Unix socket. For TCP, this lets it listen on loopback, too.
    pub(crate) fn own(
        redis: &Redis,
        transport: Transport,
    ) -> anyhow::Result<Self> {
        let server = Self::at(&redis.url())?;
        if transport == Transport::Unix {
            return Ok(server);
        }
        // The listener ends here, and the port is free for the server.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut control = server.control()?;
        for (name, value) in
            [("bind", "127.0.0.1".to_owned()), ("port", port.to_string())]
        {
            redis::cmd("CONFIG")
                .arg(&["SET", name, &value])
                .exec(&mut control)
                .context("Redis 7 can open a port; use --transport unix")?;
        }
        Self::at(&format!("redis://127.0.0.1:{port}"))
    }

    /// Returns a node of the same cluster, with the same user. An empty host is
    /// the host of this server.
    pub(crate) fn of_cluster(&self, host: &str, port: u16) -> Self {
        let host = match self.info.addr() {
            ConnectionAddr::Tcp(own, _) if host.is_empty() => own,
            _ => host,
        };
        let address = ConnectionAddr::Tcp(host.to_owned(), port);
        Self { info: self.info.clone().set_addr(address) }
    }

    /// Connects for commands that are not measured.
    pub(crate) fn control(&self) -> anyhow::Result<redis::Connection> {
        let client = redis::Client::open(self.info.clone())?;
        let connection = client
            .get_connection_with_timeout(TIMEOUT)
            .with_context(|| format!("cannot connect to {}", self.address()))?;
        connection.set_read_timeout(Some(TIMEOUT))?;
        connection.set_write_timeout(Some(TIMEOUT))?;
        Ok(connection)
    }

    /// Connects, authenticates and selects the database.
    pub(crate) async fn connect(&self) -> Result<Stream, Problem> {
        let mut stream = self.open().await?;
        let settings = self.info.redis_settings();
        let mut bytes = Vec::new();
        let mut left = 0;
        if let Some(password) = settings.password() {
            let user = settings.username().unwrap_or("default");
            let auth = ["AUTH", user, password].map(str::as_bytes);
            encode(&auth, &mut bytes);
            left += 1;
        }
        if settings.db() != 0 {
            let db = settings.db().to_string();
            encode(&[b"SELECT", db.as_bytes()], &mut bytes);
            left += 1;
        }
        stream.write_all(&bytes).await?;
        let mut replies = Replies::new(Command::Set, 0);
        let mut buffer = [0; 256];
        while left > 0 {
            let read = stream.read(&mut buffer).await?;
            left -= replies.read(&buffer[..read])?;
        }
        replies.take_problem().map_or(Ok(stream), Err)
    }

    async fn open(&self) -> io::Result<Stream> {
        match self.info.addr() {
            ConnectionAddr::Unix(path) => {
                Ok(Stream::Unix(UnixStream::connect(path).await?))
            }
            ConnectionAddr::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Returns the address, without the password.
    pub(crate) fn address(&self) -> String {
        self.info.addr().to_string()
    }

    /// Returns the options with which redis-benchmark finds the server.
    pub(crate) fn options(&self) -> Vec<OsString> {
        let mut options = Vec::new();
        let mut add = |name: &str, value: OsString| {
            options.extend([name.into(), value]);
        };
        match self.info.addr() {
            ConnectionAddr::Unix(path) => add("-s", path.into()),
            ConnectionAddr::Tcp(host, port) => {
                add("-h", host.into());
                add("-p", port.to_string().into());
            }
            _ => {}
        }
        let settings = self.info.redis_settings();
        if let Some(user) = settings.username() {
            add("--user", user.into());
        }
        if let Some(password) = settings.password() {
            add("-a", password.into());
        }
        add("--dbnum", settings.db().to_string().into());
        options
    }
}

impl Stream {
    pub(crate) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes).await,
            Self::Unix(stream) => stream.write_all(bytes).await,
        }
    }

    /// # Errors
    ///
    /// Also when the server has closed the connection.
    pub(crate) async fn read(
        &mut self,
        buffer: &mut [u8],
    ) -> io::Result<usize> {
        let read = match self {
            Self::Tcp(stream) => stream.read(buffer).await?,
            Self::Unix(stream) => stream.read(buffer).await?,
        };
        if read == 0 {
            Err(io::ErrorKind::UnexpectedEof.into())
        } else {
            Ok(read)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_support_is_refused() {
        for url in ["rediss://localhost", "http://localhost", "localhost:1"] {
            assert!(Server::at(url).is_err(), "{url}");
        }
    }

    #[test]
    fn redis_benchmark_gets_each_part_of_the_url() {
        let options =
            |url| Server::at(url).unwrap().options().join(" ".as_ref());
        assert_eq!(
            options("redis://user:secret@host:7000/3"),
            "-h host -p 7000 --user user -a secret --dbnum 3"
        );
        assert_eq!(options("redis+unix:///a/b?db=1"), "-s /a/b --dbnum 1");
        assert_eq!(options("redis://host"), "-h host -p 6379 --dbnum 0");
    }
}
