//! How `status` learns of a running node: a Unix socket in the data folder answers each connection with one JSON value.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use crate::agent::{AgentHandle, AgentStatus};

const SOCKET: &str = "node.sock";
const DEADLINE: Duration = Duration::from_secs(5);
const ANSWER_BYTES_MAX: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    #[error("no node is running on {0}")]
    NotRunning(PathBuf),
    #[error("the node does not answer in time")]
    Timeout,
    #[error("the node's answer makes no sense: is it of another version?")]
    Unexpected,
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
}

/// Of a whole process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    pub version: String,
    pub pid: u32,
    pub devices: Vec<AgentStatus>,
}

/// Answers until it is dropped.
pub async fn serve(folder: PathBuf, agents: Vec<AgentHandle>) -> Result<(), StatusError> {
    let path = folder.join(SOCKET);
    let io = |source| StatusError::Io { path: path.clone(), source };
    // Left by a node that was killed: the outbox's lock says that no other is alive.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(io)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(io)?;
    loop {
        let (stream, _) = listener.accept().await.map_err(io)?;
        // One at a time, each with a deadline: this is for people.
        let _ = timeout(DEADLINE, answer(stream, &agents)).await;
    }
}

async fn answer(mut stream: UnixStream, agents: &[AgentHandle]) -> std::io::Result<()> {
    let mut devices = Vec::with_capacity(agents.len());
    for agent in agents {
        devices.extend(agent.status().await);
    }
    let status = NodeStatus { version: env!("CARGO_PKG_VERSION").into(), pid: std::process::id(), devices };
    stream.write_all(&serde_json::to_vec(&status)?).await?;
    stream.shutdown().await
}

/// Asks the node that runs on `folder`.
pub async fn ask(folder: &Path) -> Result<NodeStatus, StatusError> {
    let path = folder.join(SOCKET);
    let read = async {
        let stream = UnixStream::connect(&path).await.map_err(|_| StatusError::NotRunning(folder.to_owned()))?;
        let mut bytes = Vec::new();
        let read = stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes).await;
        read.map_err(|source| StatusError::Io { path: path.clone(), source })?;
        serde_json::from_slice(&bytes).map_err(|_| StatusError::Unexpected)
    };
    timeout(2 * DEADLINE, read).await.map_err(|_| StatusError::Timeout)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_node_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = ask(folder.path()).await.unwrap_err();
        assert!(error.to_string().starts_with("no node is running on "));
    }

    #[tokio::test]
    async fn an_answer_comes_over_a_private_socket_also_after_a_kill() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(SOCKET), "left behind").unwrap();
        let server = tokio::spawn(serve(folder.path().to_owned(), Vec::new()));
        let status = loop {
            match ask(folder.path()).await {
                Ok(status) => break status,
                Err(StatusError::NotRunning(_)) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(status.pid, std::process::id());
        let mode = std::fs::metadata(folder.path().join(SOCKET)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        server.abort();
    }
}
