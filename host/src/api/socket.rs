//! The control API on a Unix socket in the data folder: HTTP/1.1, both sides.
//!
//! Whoever may open the socket (mode 0600, in a folder of mode 0700) is the operator; nothing else is asked.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::control::{Control, Entry};

/// The socket's name in the data folder.
pub const SOCKET_FILE: &str = "control.sock";

/// Longest body of a request or an answer: a component that carries an interpreter is large.
const BODY_BYTES: usize = 128 << 20;

/// A request's header must be there within this time.
const HEADER_TIME: Duration = Duration::from_secs(10);

/// One request and its answer; a backup of much mail takes the longest.
const CALL_TIME: Duration = Duration::from_secs(60 * 60);

/// What an answer under way may take when the host stops.
const DRAIN_TIME: Duration = Duration::from_secs(60);

/// Longest path that fits into a socket address on Linux (108 octets with the NUL).
const SOCKET_PATH_BYTES: usize = 107;

/// Opens the socket. A file that a killed host left behind is removed: the caller holds the lock of the data folder.
pub fn listen(data: &Path) -> io::Result<UnixListener> {
    let file = data.join(SOCKET_FILE);
    match std::fs::remove_file(&file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (_folder, path) = reachable(data)?;
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers until the token is cancelled, then lets the calls under way finish.
pub async fn serve(listener: UnixListener, control: Arc<Control>, stop: CancellationToken) {
    let calls = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let Ok((stream, _)) = accepted else {
            // Out of file descriptors: the only way an accept fails here for longer.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        calls.spawn(one(stream, control.clone(), stop.clone()));
    }
    calls.close();
    calls.wait().await;
}

/// One connection.
async fn one(stream: UnixStream, control: Arc<Control>, stop: CancellationToken) {
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let control = control.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = match Limited::new(body, BODY_BYTES).collect().await {
                Ok(body) => body.to_bytes(),
                Err(error) => return Err(io::Error::other(error)),
            };
            let answer = control.answer(Request::from_parts(head, body), Entry::Folder).await;
            Ok::<Response<Full<Bytes>>, io::Error>(answer.map(Full::new))
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(DRAIN_TIME, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a control connection ended early");
    }
}

/// A connection to a running host, or `None` where none runs on that data folder.
pub async fn connect(data: &Path) -> io::Result<Option<UnixStream>> {
    let (_folder, path) = match reachable(data) {
        Ok(reachable) => reachable,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match UnixStream::connect(path).await {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sends one request over a connection and reads the answer.
pub async fn call<S>(stream: S, request: Request<Bytes>) -> io::Result<Response<Bytes>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let exchange = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let connection = tokio::spawn(connection);
        let answer = sender.send_request(request.map(Full::new)).await.map_err(io::Error::other)?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, BODY_BYTES).collect().await.map_err(io::Error::other)?.to_bytes();
        connection.abort();
        Ok(Response::from_parts(head, body))
    };
    tokio::time::timeout(CALL_TIME, exchange).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// A request to the control API.
pub fn request(method: Method, path: &str, body: Bytes) -> Result<Request<Bytes>, http::Error> {
    Request::builder()
        .method(method)
        .uri(format!("{}{path}", super::control::PREFIX))
        .header("host", "posthaste")
        .header("content-type", "application/json")
        .body(body)
}

/// A path of the socket that is short enough for a socket address; long ones are reached through an open folder, which the caller
/// keeps until then.
fn reachable(data: &Path) -> io::Result<(Option<std::fs::File>, PathBuf)> {
    let path = data.join(SOCKET_FILE);
    if path.as_os_str().len() <= SOCKET_PATH_BYTES {
        return Ok((None, path));
    }
    let folder = std::fs::File::open(data)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET_FILE}", folder.as_raw_fd()));
    Ok((Some(folder), short))
}
