//! A connection's bytes, plain or encrypted.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The two forms a connection has, one after the other.
pub enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport {
    /// Does the server's side of a handshake. What the client said before it has been read, or is none of ours.
    pub async fn secure(self, tls: &TlsAcceptor) -> io::Result<Transport> {
        match self {
            Transport::Plain(stream) => Ok(Transport::Tls(Box::new(tls.accept(stream).await?))),
            Transport::Tls(_) => Err(io::Error::other("the connection is encrypted already")),
        }
    }

    /// Waits until there may be something to read.
    pub async fn readable(&mut self) -> io::Result<()> {
        match self {
            Transport::Plain(stream) => stream.readable().await,
            Transport::Tls(stream) => {
                let (socket, session) = stream.get_mut();
                // What is decrypted already waits for no socket. A fault stays in the session, where the read meets it.
                match session.process_new_packets() {
                    Ok(state) if state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed() => {
                        socket.readable().await
                    }
                    Ok(_) | Err(_) => Ok(()),
                }
            }
        }
    }

    /// Reads into a buffer; 0 at the client's end. Nothing is lost where it is given up.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Transport::Plain(stream) => stream.read(buffer).await,
            Transport::Tls(stream) => stream.read(buffer).await,
        }
    }

    /// Writes all of it.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Transport::Plain(stream) => stream.write_all(bytes).await,
            Transport::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
        }
    }

    /// Says that nothing more will come.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        match self {
            Transport::Plain(stream) => stream.shutdown().await,
            Transport::Tls(stream) => stream.shutdown().await,
        }
    }

    /// Protocol and cipher, for the log.
    pub fn cipher(&self) -> Option<String> {
        let Transport::Tls(stream) = self else { return None };
        let (_, session) = stream.get_ref();
        let version = session.protocol_version()?.as_str()?;
        let suite = session.negotiated_cipher_suite()?.suite();
        Some(format!("{} {}", version.replace('_', "."), suite.as_str()?))
    }
}
