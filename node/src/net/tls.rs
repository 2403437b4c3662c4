//! TLS 1.3 between nodes: both sides show a self-signed certificate and prove that its key is theirs.
//!
//! No authority signs anything. Who a peer is follows from the certificate alone ([`peer_of`]); whether it is the one
//! that was meant, or may connect at all, is for the caller to decide.

use std::sync::Arc;

use ftx_proto::digest::NodeId;
use ftx_proto::wire::session::ALPN;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, CommonState, DigitallySignedStruct, DistinguishedName, PeerIncompatible,
    ServerConfig, SignatureScheme,
};

use crate::error::Error;
use crate::identity::{Identity, node_of};

/// The configurations of both roles of one node.
#[derive(Debug, Clone)]
pub struct Tls {
    /// For sessions that others dial.
    pub server: Arc<ServerConfig>,
    /// For sessions that we dial.
    pub client: Arc<ClientConfig>,
}

impl Tls {
    /// Configurations that show `identity`.
    pub fn new(identity: &Identity) -> Result<Self, Error> {
        let provider = Arc::new(provider());
        let verifier = Arc::new(AnySelfSigned { algorithms: provider.signature_verification_algorithms });
        let unusable =
            |error: rustls::Error| Error::other(format!("this node's key cannot be used: {error}"));
        let versions = &[&rustls::version::TLS13];

        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .map_err(unusable)?
            .with_client_cert_verifier(verifier.clone())
            .with_single_cert(vec![identity.certificate()], identity.key())
            .map_err(unusable)?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        // Every session proves its identity anew; there is nothing to resume.
        server.send_tls13_tickets = 0;
        // The records behind the handshake are sealed and opened by `records`.
        server.enable_secret_extraction = true;

        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(unusable)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(vec![identity.certificate()], identity.key())
            .map_err(unusable)?;
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = rustls::client::Resumption::disabled();
        client.enable_secret_extraction = true;

        Ok(Tls { server: Arc::new(server), client: Arc::new(client) })
    }
}

/// Who is at the other end, once the handshake is done; `None` if it is not one of ours.
pub fn peer_of(connection: &CommonState) -> Option<NodeId> {
    if connection.alpn_protocol() != Some(ALPN) {
        return None;
    }
    connection.peer_certificates()?.first().and_then(node_of)
}

/// The name that TLS wants to dial; nobody checks it.
pub fn server_name() -> ServerName<'static> {
    ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into())
}

/// AES-128-GCM first: where processors have AES it is the fastest, and nothing here lives long enough to need more.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![
        aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
        aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    provider
}

/// Accepts every certificate whose key the peer proves to have.
#[derive(Debug)]
struct AnySelfSigned {
    algorithms: WebPkiSupportedAlgorithms,
}

impl AnySelfSigned {
    fn well_formed(certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        node_of(certificate)
            .map(|_| ())
            .ok_or(rustls::Error::InvalidCertificate(CertificateError::BadEncoding))
    }
}

impl ServerCertVerifier for AnySelfSigned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Self::well_formed(end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for AnySelfSigned {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Self::well_formed(end_entity).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls12_signature(self, message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls13_signature(self, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
