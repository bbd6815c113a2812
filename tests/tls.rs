//! Servers behind TLS: one whose certificate proves nothing is sent nothing, and an authority of one's own can be trusted.

use std::sync::Arc;
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::mock::{Behaviour, Mock};
use crate::support::{Ran, Sandbox};

const FILE: &str = r"
name: tls
nodes:
  problems: { task: dataset, with: { source: { rows: [{ id: a, problem: one }, { id: b, problem: two }] } } }
  answers:
    task: sample
    inputs: { prompts: problems }
    with: { model: { backend: openai, name: m }, max_tokens: 16 }
    run: { base_url: SERVER, server_patience: 0.5 }
";

/// An authority that no machine knows.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its certificate of a server: the end of the TLS configuration.
    fn certify(&self, name: &str, expired: bool) -> ServerConfig {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        if expired {
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap()
    }
}

/// Ends TLS before a server that speaks without; gives the address.
fn before(mock: &Mock, config: ServerConfig) -> String {
    let inner = mock.address().trim_start_matches("http://").trim_end_matches("/v1").to_owned();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    listener.set_nonblocking(true).unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        runtime.block_on(async {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((outer, _)) = listener.accept().await {
                let (acceptor, inner) = (acceptor.clone(), inner.clone());
                // A client that does not like the certificate goes away: that is what is tested.
                tokio::spawn(async move {
                    let Ok(mut outer) = acceptor.accept(outer).await else { return };
                    let mut inner = TcpStream::connect(inner).await.unwrap();
                    drop(tokio::io::copy_bidirectional(&mut outer, &mut inner).await);
                });
            }
        });
    });
    format!("https://localhost:{port}/v1")
}

fn run(sandbox: &Sandbox, server: &str, trusted: Option<&Authority>) -> Ran {
    sandbox.write("tls.yaml", &FILE.replace("SERVER", server));
    let file = sandbox.path("authority.pem");
    if let Some(authority) = trusted {
        sandbox.write("authority.pem", &authority.0.pem());
    }
    let trust = trusted.map(|_| ("SSL_CERT_FILE", file.to_str().unwrap()));
    sandbox.dag_with(&["run", "tls.yaml"], trust.as_slice())
}

#[test]
fn a_certificate_that_proves_nothing_gets_no_request() {
    let mock = Mock::start(Behaviour::of(str::to_uppercase));
    let authority = Authority::new();
    let unknown = before(&mock, authority.certify("localhost", false));
    let expired = before(&mock, authority.certify("localhost", true));
    let other = before(&mock, authority.certify("models.example", false));
    let sandbox = Sandbox::new();
    for (server, trusted, why) in [
        (&unknown, None, "UnknownIssuer"),
        (&expired, Some(&authority), "certificate expired"),
        (&other, Some(&authority), "not valid for name"),
    ] {
        let ran = run(&sandbox, server, trusted);
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        assert!(ran.stderr.contains(why), "no `{why}`:\n{}", ran.stderr);
        assert!(ran.stderr.contains("SSL_CERT_FILE"), "{}", ran.stderr);
        assert_eq!(mock.ledger().arrived_in_all(), 0);
    }
    // What failed is asked once the authority is known.
    run(&sandbox, &unknown, Some(&authority)).expect(0);
    assert_eq!(mock.calls(), 2);
}
