//! A client that keeps its connection: as much of HTTP as the tests and the load need.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status, for example 200.
    pub code: u16,
    /// The headers, in lower case.
    pub headers: String,
    /// The body.
    pub body: String,
}

/// A connection to a server.
#[derive(Debug)]
pub struct Client(BufReader<TcpStream>);

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Client(BufReader::new(stream)))
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// The connection ended, or the answer is no HTTP.
    pub fn send(&mut self, method: &str, path: &str, body: &str) -> io::Result<Answer> {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}");
        self.0.get_mut().write_all(head.as_bytes())?;
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "no answer of HTTP");
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        let code = line.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(bad)?;
        let (mut headers, mut length) = (String::new(), 0);
        loop {
            line.clear();
            self.0.read_line(&mut line)?;
            let header = line.trim_end().to_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(n) = header.strip_prefix("content-length:") {
                length = n.trim().parse().map_err(|_| bad())?;
            }
            headers += &header;
            headers.push('\n');
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok(Answer { code, headers, body: String::from_utf8(body).map_err(|_| bad())? })
    }
}
