//! A way into a world that is in a guest: the guest serves, the host's terminal asks.
//!
//! One TCP connection per command. The client sends one line of JSON ([`Request`], with the secret that only the owner of the state directory
//! can read), then what is typed; the server sends frames: one byte of kind, four of length (big endian), the bytes.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::{Context, Result, bail};
use rustix::termios::{self, OptionalActions, Winsize};
use serde::{Deserialize, Serialize};

use crate::secret;
use crate::world::{Exec, World};

/// `spiderpool-lab shell-server`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to listen
    #[arg(long)]
    listen: SocketAddr,
    /// The file with the secret
    #[arg(long)]
    secret: PathBuf,
    /// The world's directory of state; without it commands run where this process does, whatever place they name
    #[arg(long)]
    state: Option<PathBuf>,
}

/// `spiderpool-lab shell`
#[derive(Debug, clap::Args)]
pub struct ClientArgs {
    /// The server
    #[arg(long)]
    server: SocketAddr,
    /// The file with the secret
    #[arg(long)]
    secret: PathBuf,
    /// Program and arguments; a shell if there are none
    #[arg(trailing_var_arg = true)]
    command: Vec<String>,
}

/// Runs a command where a server is; this process ends with its exit code.
pub fn run_client(args: ClientArgs) -> Result<()> {
    let secret =
        std::fs::read_to_string(&args.secret).with_context(|| format!("cannot read {}", args.secret.display()))?;
    let code = ask(args.server, secret.trim(), "", &args.command)?;
    std::process::exit(code.into())
}

/// What a client wants.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    secret: String,
    /// A node, a pod, or a namespace of the cloud.
    place: String,
    /// Program and arguments; none for a shell.
    command: Vec<String>,
    /// Rows and columns of the client's terminal; none for pipes.
    terminal: Option<(u16, u16)>,
}

/// Kinds of frames.
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const EXIT: u8 = 3;

/// Serves until it is killed.
pub fn run(args: Args) -> Result<()> {
    let listener = TcpListener::bind(args.listen).with_context(|| format!("cannot listen on {}", args.listen))?;
    println!("shell server ready: {}", args.listen);
    let args = Arc::new(args);
    for client in listener.incoming() {
        let Ok(client) = client else { continue };
        let args = args.clone();
        thread::spawn(move || {
            if let Err(error) = serve(client, &args) {
                tracing::info!(error = format!("{error:#}"), "connection ended");
            }
        });
    }
    Ok(())
}

fn serve(client: TcpStream, args: &Args) -> Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut line = String::new();
    (&mut reader).take(1 << 20).read_line(&mut line)?;
    let request: Request = serde_json::from_str(&line).context("not a request")?;
    let secret = std::fs::read_to_string(&args.secret).context("cannot read the secret")?;
    if request.secret != secret.trim() {
        bail!("wrong secret");
    }
    let frames = Frames(Arc::new(Mutex::new(client)));
    let code = match execute(&request, reader, args.state.as_deref(), &frames) {
        Ok(code) => code,
        Err(error) => {
            frames.send(STDERR, format!("{error:#}\n").as_bytes())?;
            1
        }
    };
    frames.send(EXIT, &[code])?;
    Ok(())
}

#[derive(Clone)]
struct Frames(Arc<Mutex<TcpStream>>);

impl Frames {
    fn send(&self, kind: u8, bytes: &[u8]) -> io::Result<()> {
        let mut stream = self.0.lock().map_err(|_| io::Error::other("a writer panicked"))?;
        let mut frame = vec![kind];
        frame.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        frame.extend_from_slice(bytes);
        stream.write_all(&frame)
    }

    fn pass_on(&self, kind: u8, mut from: impl Read) {
        let mut buffer = [0; 8192];
        // A terminal whose last process has ended reads as an error.
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if self.send(kind, &buffer[..length]).is_err() {
                return;
            }
        }
    }
}

fn execute(request: &Request, mut typed: BufReader<TcpStream>, state: Option<&Path>, frames: &Frames) -> Result<u8> {
    let place = match state {
        Some(state) => World::found(state)?.context("no world is up")?.place(&request.place)?,
        None => Exec::here()?,
    };
    let words = shell_or(&request.command);
    let Some((rows, columns)) = request.terminal else {
        let mut command = place.command(&words);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().context("stdin is piped")?;
        thread::spawn(move || io::copy(&mut typed, &mut stdin));
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        thread::scope(|scope| {
            scope.spawn(|| {
                if let Some(stream) = stdout {
                    frames.pass_on(STDOUT, stream);
                }
            });
            if let Some(stream) = stderr {
                frames.pass_on(STDERR, stream);
            }
        });
        return Ok(child.wait()?.code().unwrap_or(255) as u8);
    };
    let (controller, terminal) = open_terminal(rows, columns)?;
    let mut command = place.on_terminal(&terminal).command(&words);
    command.env("TERM", "xterm").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().with_context(|| format!("cannot start {}", words.join(" ")))?;
    let mut keys = controller.try_clone()?;
    thread::spawn(move || io::copy(&mut typed, &mut keys));
    let screen = frames.clone();
    let shown = thread::spawn(move || screen.pass_on(STDOUT, controller));
    let status = child.wait()?;
    let _ = shown.join();
    Ok(status.code().unwrap_or(255) as u8)
}

/// The command, or a shell.
pub fn shell_or(command: &[String]) -> Vec<String> {
    if command.is_empty() { vec!["/bin/bash".into()] } else { command.to_vec() }
}

/// A pseudo terminal: our end, and the path of the other one.
fn open_terminal(rows: u16, columns: u16) -> Result<(File, PathBuf)> {
    use rustix::pty;
    let controller =
        pty::openpt(pty::OpenptFlags::RDWR | pty::OpenptFlags::NOCTTY).context("cannot open a terminal")?;
    pty::grantpt(&controller)?;
    pty::unlockpt(&controller)?;
    termios::tcsetwinsize(&controller, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?;
    let name = pty::ptsname(&controller, Vec::new())?;
    Ok((File::from(controller), PathBuf::from(name.to_string_lossy().into_owned())))
}

/// Writes a new secret to a file that only its owner can read.
pub fn new_secret(file: &Path) -> Result<()> {
    let mut bytes = [0; 24];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).context("cannot get random bytes")?;
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    secret::write(file, &format!("{text}\n"))
}

/// Asks a guest to run a command, with this process's terminal or streams; returns the exit code.
pub fn ask(server: SocketAddr, secret: &str, place: &str, command: &[String]) -> Result<u8> {
    let stream = TcpStream::connect(server).context("the guest does not answer")?;
    let stdin = io::stdin();
    let interactive = command.is_empty() && termios::isatty(&stdin) && termios::isatty(io::stdout());
    let terminal =
        if interactive { termios::tcgetwinsize(&stdin).ok().map(|size| (size.ws_row, size.ws_col)) } else { None };
    let request = Request { secret: secret.to_owned(), place: place.to_owned(), command: command.to_vec(), terminal };
    let mut line = serde_json::to_vec(&request)?;
    line.push(b'\n');
    (&stream).write_all(&line)?;
    let before = if terminal.is_some() { termios::tcgetattr(&stdin).ok() } else { None };
    if let Some(before) = &before {
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(&stdin, OptionalActions::Now, &raw)?;
    }
    let mut writer = stream.try_clone()?;
    thread::spawn(move || {
        // Ends with the process, or when nothing more is typed.
        let _ = io::copy(&mut io::stdin().lock(), &mut writer);
        let _ = writer.shutdown(std::net::Shutdown::Write);
    });
    let outcome = show(BufReader::new(stream));
    if let Some(before) = &before {
        termios::tcsetattr(&stdin, OptionalActions::Now, before)?;
    }
    outcome
}

fn show(mut frames: impl Read) -> Result<u8> {
    loop {
        let mut head = [0; 5];
        frames.read_exact(&mut head).context("the guest hung up")?;
        let mut body = vec![0; u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize];
        frames.read_exact(&mut body).context("the guest hung up")?;
        match head[0] {
            STDOUT => {
                io::stdout().write_all(&body)?;
                io::stdout().flush()?;
            }
            STDERR => io::stderr().write_all(&body)?,
            _ => return Ok(body.first().copied().unwrap_or(255)),
        }
    }
}

/// Runs a command in a world on this machine, with this process's own terminal; returns the exit code.
pub fn here(world: &World, place: &str, command: &[String]) -> Result<u8> {
    let words = shell_or(command);
    let mut command: Command = world.place(place)?.command(&words);
    let status = command.status().with_context(|| format!("cannot start {}", words.join(" ")))?;
    Ok(status.code().unwrap_or(255) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_shown_until_the_exit_code() {
        let mut bytes = vec![STDOUT, 0, 0, 0, 0];
        bytes.extend([EXIT, 0, 0, 0, 1, 7]);
        assert_eq!(show(&bytes[..]).unwrap(), 7);
        assert!(show(&bytes[..7]).unwrap_err().to_string().contains("hung up"));
    }
}
