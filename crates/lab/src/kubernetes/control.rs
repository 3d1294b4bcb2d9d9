//! Orders to the first process of a namespace, over a Unix socket: a line `ORDER NAME`, answered by `ok` or `error`, then text.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// What a process is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Order {
    /// Say what runs.
    List,
    /// End by SIGTERM, and stay so.
    Stop,
    /// End by SIGKILL, and stay so.
    Kill,
    /// Run again after `stop` or `kill`.
    Start,
    /// End by SIGTERM and run again.
    Restart,
    /// Hold by SIGSTOP.
    Pause,
    /// Go on after `pause`.
    Resume,
}

const ORDERS: [(Order, &str); 7] = [
    (Order::List, "list"),
    (Order::Stop, "stop"),
    (Order::Kill, "kill"),
    (Order::Start, "start"),
    (Order::Restart, "restart"),
    (Order::Pause, "pause"),
    (Order::Resume, "resume"),
];

/// Gives an order and returns the answer's text.
pub fn ask(socket: &Path, order: Order, process: &str) -> Result<String> {
    let what = || format!("cannot reach {}", socket.display());
    let mut stream = UnixStream::connect(socket).with_context(what)?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).with_context(what)?;
    let word = ORDERS.iter().find(|(known, _)| *known == order).map(|(_, word)| *word).unwrap_or_default();
    writeln!(stream, "{word} {process}").with_context(what)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(what)?;
    match answer.split_once('\n') {
        Some(("ok", text)) => Ok(text.to_owned()),
        Some((_, text)) => bail!("{word} {process}: {text}"),
        None => bail!("{word} {process}: no answer"),
    }
}

/// Answers for ever; each order on a thread of its own, since some take long.
pub fn serve(listener: &UnixListener, obey: impl Fn(Order, &str) -> Result<String> + Clone + Send + 'static) {
    for stream in listener.incoming().filter_map(Result::ok) {
        let obey = obey.clone();
        thread::spawn(move || {
            // A driver that went away concerns nobody.
            let _ = answer(stream, obey);
        });
    }
}

fn answer(mut stream: UnixStream, obey: impl Fn(Order, &str) -> Result<String>) -> Result<()> {
    let mut line = String::new();
    BufReader::new(stream.try_clone()?).read_line(&mut line)?;
    let (word, name) = line.trim_end().split_once(' ').unwrap_or((line.trim_end(), ""));
    let outcome = match ORDERS.iter().find(|(_, known)| *known == word) {
        Some((order, _)) => obey(*order, name),
        None => Err(anyhow::anyhow!("unknown order")),
    };
    let text = match outcome {
        Ok(text) => format!("ok\n{text}"),
        Err(error) => format!("error\n{error:#}"),
    };
    Ok(stream.write_all(text.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_answered_and_a_refusal_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        thread::spawn(move || {
            serve(&listener, |order, name| match (order, name) {
                (Order::List, _) => Ok("etcd runs\n".into()),
                _ => bail!("there is no process {name}"),
            })
        });
        assert_eq!(ask(&socket, Order::List, "").unwrap(), "etcd runs\n");
        let error = ask(&socket, Order::Pause, "x").unwrap_err().to_string();
        assert_eq!(error, "pause x: there is no process x");
    }
}
