//! The little of the RESP protocol that a cache is asked and told with: one connection, a few commands, small answers.
use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

/// How long the server may take for everything it is asked on one connection.
const PATIENCE: Duration = Duration::from_secs(4);
/// Longest answer in bytes, and most items of one.
const LIMIT: usize = 64 * 1024;

/// Why a server gave no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum RespError {
    #[error("the server cannot be reached")]
    Connect(#[source] io::Error),
    #[error("the connection to the server broke")]
    Broken(#[from] io::Error),
    #[error("the server did not answer in time")]
    Slow,
    #[error("the server's answer is not of its protocol")]
    Garbled,
    #[error("the server refuses {command}: {said}")]
    Refused { command: String, said: String },
}

/// An answer; errors are of their own kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Text(String),
    Nothing,
    List(Vec<String>),
}

/// Sends the commands after logging in and gives back what was answered, in order. The first refusal ends it.
pub async fn ask(
    address: IpAddr,
    port: u16,
    password: &str,
    commands: &[Vec<String>],
) -> Result<Vec<Answer>, RespError> {
    let talk = async {
        let stream = TcpStream::connect(SocketAddr::new(address, port)).await.map_err(RespError::Connect)?;
        let mut stream = BufReader::new(stream);
        let login = vec!["AUTH".to_owned(), password.to_owned()];
        let mut answers = Vec::new();
        for command in [&login].into_iter().chain(commands) {
            stream.get_mut().write_all(&encode(command)).await?;
            let answer = read(&mut stream).await?;
            answers.push(answer.map_err(|said| RespError::Refused { command: named(command), said })?);
        }
        answers.remove(0);
        Ok(answers)
    };
    tokio::time::timeout(PATIENCE, talk).await.unwrap_or(Err(RespError::Slow))
}

/// A command without its values: they may be a password.
fn named(command: &[String]) -> String {
    let words = if command.first().is_some_and(|c| c == "CONFIG") { 3 } else { 1 };
    command.iter().take(words).cloned().collect::<Vec<_>>().join(" ")
}

fn encode(command: &[String]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", command.len()).into_bytes();
    for word in command {
        bytes.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    bytes
}

/// One answer; the server's own refusal is the inner error.
async fn read(stream: &mut BufReader<TcpStream>) -> Result<Result<Answer, String>, RespError> {
    let head = line(stream).await?;
    let (kind, rest) = head.split_at_checked(1).ok_or(RespError::Garbled)?;
    Ok(match kind {
        "+" | ":" => Ok(Answer::Text(rest.to_owned())),
        "-" => Err(rest.chars().take(120).collect()),
        "$" => Ok(bulk(stream, rest).await?.map_or(Answer::Nothing, Answer::Text)),
        "*" => {
            let mut list = Vec::new();
            for _ in 0..length(rest)?.unwrap_or(0) {
                let head = line(stream).await?;
                let size = head.strip_prefix('$').ok_or(RespError::Garbled)?;
                list.push(bulk(stream, size).await?.unwrap_or_default());
            }
            Ok(Answer::List(list))
        }
        _ => return Err(RespError::Garbled),
    })
}

fn length(text: &str) -> Result<Option<usize>, RespError> {
    let n: i64 = text.parse().map_err(|_| RespError::Garbled)?;
    match usize::try_from(n) {
        Ok(n) if n > LIMIT => Err(RespError::Garbled),
        Ok(n) => Ok(Some(n)),
        Err(_) => Ok(None),
    }
}

async fn bulk(stream: &mut BufReader<TcpStream>, size: &str) -> Result<Option<String>, RespError> {
    let Some(size) = length(size)? else { return Ok(None) };
    let mut bytes = vec![0; size + 2];
    stream.read_exact(&mut bytes).await?;
    bytes.truncate(size);
    String::from_utf8(bytes).map(Some).map_err(|_| RespError::Garbled)
}

async fn line(stream: &mut BufReader<TcpStream>) -> Result<String, RespError> {
    let mut bytes = Vec::new();
    stream.take(LIMIT as u64).read_until(b'\n', &mut bytes).await?;
    let line = bytes.strip_suffix(b"\r\n").ok_or(RespError::Garbled)?;
    String::from_utf8(line.to_vec()).map_err(|_| RespError::Garbled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// Answers each connection with these bytes, whatever it is asked.
    async fn answering(bytes: &'static [u8]) -> Result<Vec<Answer>, RespError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("bound");
        let serve = async {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            stream.write_all(bytes).await.expect("it listens");
            stream.shutdown().await.expect("it listens");
            // Until the other side has gone.
            drop(stream.read_to_end(&mut Vec::new()).await);
        };
        let commands = [vec!["PING".to_owned()]];
        tokio::join!(ask(at.ip(), at.port(), "secret", &commands), serve).0
    }

    #[tokio::test]
    async fn answers_are_read_and_anything_else_is_refused() {
        let text = |s: &str| vec![Answer::Text(s.into())];
        assert_eq!(answering(b"+OK\r\n+PONG\r\n").await.expect("an answer"), text("PONG"));
        assert_eq!(answering(b"+OK\r\n$4\r\nPONG\r\n").await.expect("an answer"), text("PONG"));
        let list = answering(b"+OK\r\n*2\r\n$1\r\na\r\n$0\r\n\r\n").await.expect("an answer");
        assert_eq!(list, [Answer::List(vec!["a".into(), String::new()])]);
        let refused = answering(b"-WRONGPASS nobody\r\n").await.expect_err("the login failed").to_string();
        assert_eq!(refused, "the server refuses AUTH: WRONGPASS nobody");
        for bad in [
            &b"HTTP/1.1 200\r\n"[..],
            b"+OK\r\n$99999999\r\n",
            b"+OK\r\n*1\r\n+x\r\n",
            b"+OK\r\n$-",
            b"+OK\r\n$2\r\n\xff\xff\r\n",
        ] {
            assert!(matches!(answering(bad).await, Err(RespError::Garbled)), "{bad:?}");
        }
        assert!(matches!(answering(b"+OK\r\n$9\r\nabc").await, Err(RespError::Broken(_))));
    }
}
