//! A mail server as far as RFC 5321, STARTTLS (RFC 3207) and AUTH PLAIN (RFC 4954) go.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufStream};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

/// How it behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    StartTls,
    Implicit,
    /// It offers no TLS.
    Plain,
    /// It takes the first message later.
    Busy,
    /// It refuses the sender.
    Refuses,
}

/// What one connection said, line by line; of a message its lines.
pub type Said = Vec<String>;

pub struct Smtp {
    pub address: SocketAddr,
    pub certificate: String,
    pub said: mpsc::UnboundedReceiver<Said>,
}

impl Smtp {
    pub async fn start(kind: Kind) -> Smtp {
        let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, said) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut kind = kind;
            while let Ok((stream, _)) = listener.accept().await {
                let mut said = Said::new();
                if kind == Kind::Implicit {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(&mut BufStream::new(stream), kind, true, &mut said).await;
                    }
                } else {
                    let mut stream = BufStream::new(stream);
                    if serve(&mut stream, kind, false, &mut said).await
                        && let Ok(stream) = acceptor.accept(stream.into_inner()).await
                    {
                        said.push("TLS".to_owned());
                        serve(&mut BufStream::new(stream), kind, true, &mut said).await;
                    }
                }
                if kind == Kind::Busy {
                    kind = Kind::StartTls;
                }
                let _ = sender.send(said);
            }
        });
        Smtp {
            address,
            certificate: own.cert.pem(),
            said,
        }
    }
}

/// Whether TLS is to begin.
async fn serve<S>(stream: &mut BufStream<S>, kind: Kind, secure: bool, said: &mut Said) -> bool
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // After STARTTLS the client speaks first.
    let mut answer = match (kind, secure) {
        (Kind::Implicit, _) | (_, false) => "220 localhost\r\n",
        _ => "",
    };
    loop {
        if stream.write_all(answer.as_bytes()).await.is_err() || stream.flush().await.is_err() {
            return false;
        }
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return false;
        }
        let line = line.trim_end().to_owned();
        said.push(line.clone());
        let word = line.split([' ', ':']).next().unwrap().to_ascii_uppercase();
        answer = match word.as_str() {
            "EHLO" if secure => "250-localhost\r\n250 AUTH PLAIN\r\n",
            "EHLO" if kind == Kind::Plain => "250-localhost\r\n250 AUTH PLAIN\r\n",
            "EHLO" => "250-localhost\r\n250 STARTTLS\r\n",
            "STARTTLS" => {
                stream.write_all(b"220 go on\r\n").await.unwrap();
                stream.flush().await.unwrap();
                return true;
            }
            "AUTH" => "235 welcome\r\n",
            "MAIL" if kind == Kind::Refuses => "550 not you\r\n",
            "MAIL" if kind == Kind::Busy => "451 later\r\n",
            "DATA" => {
                stream.write_all(b"354 go on\r\n").await.unwrap();
                stream.flush().await.unwrap();
                loop {
                    let mut line = String::new();
                    if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                        return false;
                    }
                    if line == ".\r\n" {
                        break;
                    }
                    said.push(line.trim_end().to_owned());
                }
                "250 taken\r\n"
            }
            "QUIT" => {
                let _ = stream.write_all(b"221 bye\r\n").await;
                let _ = stream.flush().await;
                return false;
            }
            _ => "250 ok\r\n",
        };
    }
}
