//! A small SMTP client for tests: what is written is what is sent.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// How long a reply may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A connection that has read its greeting.
pub struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    /// Connects and reads the greeting.
    pub fn connect(server: SocketAddr) -> Result<Client> {
        let stream = TcpStream::connect_timeout(&server, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        stream.set_nodelay(true)?;
        let mut client = Client { reader: BufReader::new(stream) };
        client.expect(220)?;
        Ok(client)
    }

    /// Connects and says EHLO.
    pub fn greeted(server: SocketAddr) -> Result<Client> {
        let mut client = Client::connect(server)?;
        client.command("EHLO client.test", 250)?;
        Ok(client)
    }

    /// The connection, for whoever goes on in another way behind STARTTLS. What was read of it and not asked for is lost.
    pub fn into_stream(self) -> TcpStream {
        self.reader.into_inner()
    }

    /// Sends a line and expects a code; gives the reply's text.
    pub fn command(&mut self, line: &str, code: u16) -> Result<String> {
        self.write(format!("{line}\r\n").as_bytes())?;
        self.expect(code).with_context(|| format!("after {line:?}"))
    }

    /// Sends bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.reader.get_mut().write_all(bytes)?)
    }

    /// Reads a reply and wants this code.
    pub fn expect(&mut self, code: u16) -> Result<String> {
        let (got, text) = self.reply()?;
        if got != code {
            bail!("expected {code}, got {got} {text}");
        }
        Ok(text)
    }

    /// Reads a reply: its code, and its lines joined by a line feed.
    pub fn reply(&mut self) -> Result<(u16, String)> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line)? == 0 {
                bail!("the server hung up");
            }
            let code: u16 = line.get(..3).and_then(|code| code.parse().ok()).context("a reply without a code")?;
            lines.push(line.get(4..).unwrap_or("").trim_end().to_owned());
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok((code, lines.join("\n")));
            }
        }
    }

    /// MAIL, RCPT and DATA; gives the reply to the final dot, whatever it is. `message` has CRLF line ends and no dots
    /// at the start of a line.
    pub fn submit(&mut self, from: &str, to: &str, message: &[u8]) -> Result<(u16, String)> {
        self.command(&format!("MAIL FROM:<{from}>"), 250)?;
        self.command(&format!("RCPT TO:<{to}>"), 250)?;
        self.command("DATA", 354)?;
        self.write(message)?;
        self.write(if message.ends_with(b"\r\n") { b".\r\n" } else { b"\r\n.\r\n" })?;
        self.reply()
    }
}
