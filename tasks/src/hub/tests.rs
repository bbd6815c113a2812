//! Fetching from a hub on the loopback.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use dag_engine::remote::{Content, Resolver};
use serde_json::json;

use super::testing::HubServer;
use super::*;
use crate::table::testing::table;

const REPOSITORY: &str = "datasets/some/thing";
const ADDRESS: &str = "hf://some/thing";

/// A context with `HF_HOME` in `dir`, asking `server`.
fn context(dir: &Path, server: &HubServer, token: Option<&str>) -> TaskCx {
    let mut cx = TaskCx::for_test(&dir.join("task"))
        .env("HF_HOME", dir.join("hf").to_str().unwrap())
        .env("HF_ENDPOINT", server.endpoint());
    if let Some(token) = token {
        cx = cx.env("HF_TOKEN", token);
    }
    cx.build().unwrap()
}

fn resolver(cx: &TaskCx) -> Remote {
    Remote::new(cx.environment())
}

fn pattern(revision: Option<&str>) -> String {
    Remote::pattern(&Address::parse(ADDRESS, Kind::Dataset, revision).unwrap())
}

/// Resolves and fetches a split; the contents of its files.
fn fetch(cx: &TaskCx, split: &str) -> Result<Vec<Vec<u8>>, String> {
    let pinned = resolver(cx).resolve(&pattern(None)).map_err(|missing| missing.what)?;
    let files = files_of_split(&pinned.address, None, Some(split), cx).map_err(|error| error.to_string())?;
    Ok(files.iter().map(|path| fs::read(path).unwrap()).collect())
}

#[test]
fn a_split_is_fetched_once_and_then_needs_no_hub() {
    let dir = tempfile::tempdir().unwrap();
    let server = HubServer::start();
    let part = |text: &str| fs::read(table(dir.path().join(text), json!([{ "problem": text }]))).unwrap();
    let (first, second) = (part("one"), part("two"));
    let commit = server.push(
        REPOSITORY,
        "main",
        &[
            ("README.md", b"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: math\n    path: data/math-*\n---\n"),
            ("data/math-00001-of-00002.parquet", &second),
            ("data/math-00000-of-00002.parquet", &first),
            ("data/code-00000-of-00001.parquet", b"not asked for"),
        ],
    );
    let cx = context(dir.path(), &server, None);
    assert_eq!(fetch(&cx, "math").unwrap(), [first.clone(), second.clone()]);
    let asked = server.seen();
    assert!(!asked.iter().any(|seen| seen.path.contains("code")));
    // The layout is that of other tools.
    let folder = dir.path().join("hf/hub/datasets--some--thing");
    assert_eq!(fs::read_to_string(folder.join("refs/main")).unwrap(), commit);
    let place = folder.join("snapshots").join(&commit).join("data/math-00000-of-00002.parquet");
    assert!(fs::read_link(&place).unwrap().starts_with("../../../blobs"));
    assert_eq!(fs::read(&place).unwrap(), first);
    // Again by its commit: not one request.
    let address = Address::parse(ADDRESS, Kind::Dataset, Some(&commit)).unwrap();
    let pinned = resolver(&cx).resolve(&Remote::pattern(&address)).unwrap();
    assert_eq!(pinned.content, Content::Identity(format!("hf://datasets/some/thing@{commit}")));
    assert_eq!(files_of_split(&pinned.address, None, Some("math"), &cx).unwrap().len(), 2);
    assert_eq!(server.seen().len(), asked.len());
}

#[test]
fn a_token_is_told_to_the_hub_and_to_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let server = HubServer::start();
    let bytes = vec![7; 100_000];
    server.push(REPOSITORY, "main", &[("data/train-00000-of-00001.parquet", &bytes)]);
    server.ask_for("hf_canary");
    let error = fetch(&context(dir.path(), &server, None), "train").unwrap_err();
    assert!(error.contains("answers 401, and no token was given"), "{error}");
    let error = fetch(&context(dir.path(), &server, Some("hf_wrong")), "train").unwrap_err();
    assert!(
        error.contains("answers 401: the token does not open it") && !error.contains("hf_wrong"),
        "{error}"
    );
    assert_eq!(fetch(&context(dir.path(), &server, Some("hf_canary")), "train").unwrap(), [bytes]);
    let seen = server.seen();
    let told = |seen: &super::testing::Seen| seen.authorization.as_deref() == Some("Bearer hf_canary");
    assert!(seen.iter().any(|seen| seen.is_hub && told(seen)));
    let elsewhere: Vec<_> = seen.iter().filter(|seen| !seen.is_hub).collect();
    assert!(!elsewhere.is_empty() && elsewhere.iter().all(|seen| seen.authorization.is_none()));
}

#[test]
fn half_a_file_is_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let server = HubServer::start();
    let bytes: Vec<u8> = (0..200_000_u32).map(|number| (number.wrapping_mul(number) >> 7) as u8).collect();
    server.push(REPOSITORY, "main", &[("data/train-00000-of-00001.parquet", &bytes)]);
    server.cut_after(70_000);
    assert_eq!(fetch(&context(dir.path(), &server, None), "train").unwrap(), std::slice::from_ref(&bytes));
    let ranges: Vec<_> =
        server.seen().into_iter().filter(|seen| !seen.is_hub).map(|seen| seen.range).collect();
    assert_eq!(ranges, [None, Some("bytes=70000-".to_owned())]);
    // What an earlier process left is gone on with, too; what is not the beginning of this file is thrown away.
    for (left, asked) in [(&bytes[..50_000], "bytes=50000-"), (&[1; 300][..], "bytes=300-")] {
        let folder = dir.path().join("hf/hub/datasets--some--thing");
        let blob = fs::read_dir(folder.join("blobs")).unwrap().next().unwrap().unwrap().path();
        fs::remove_dir_all(folder.join("snapshots")).unwrap();
        fs::remove_file(&blob).unwrap();
        fs::write(blob.with_extension("incomplete"), left).unwrap();
        let before = server.seen().len();
        assert_eq!(
            fetch(&context(dir.path(), &server, None), "train").unwrap(),
            std::slice::from_ref(&bytes)
        );
        let first = server.seen().into_iter().skip(before).find(|seen| !seen.is_hub).unwrap();
        assert_eq!(first.range.as_deref(), Some(asked));
    }
}

#[test]
fn what_is_refused_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let server = HubServer::start();
    server.push(REPOSITORY, "main", &[("train.jsonl", b"{}")]);
    let cx = context(dir.path(), &server, None);
    let error = |revision: Option<&str>, address: &str| {
        let address = Address::parse(address, Kind::Dataset, revision).unwrap();
        resolver(&cx).resolve(&Remote::pattern(&address)).unwrap_err()
    };
    let missing = error(None, "hf://no/such");
    assert!(
        missing.what.starts_with("the data set `no/such` at `main`: there is no such data set on"),
        "{missing:?}"
    );
    assert!(error(Some("v9"), ADDRESS).what.contains("there is no such revision"));
    server.refuse(5, 429, "retry-after: 0\r\n");
    let missing = error(None, ADDRESS);
    assert!(missing.what.contains("429, too many requests, after 5 attempts"), "{missing:?}");
    assert!(missing.help.contains("HF_TOKEN"));
    // One that passes is waited for.
    server.refuse(2, 503, "retry-after: 0\r\n");
    assert_eq!(fetch(&cx, "train").unwrap(), [b"{}"]);
    assert!(fetch(&cx, "test").unwrap_err().ends_with("has no split `test`, but `train`"));
}

#[test]
fn without_a_hub_what_was_last_fetched_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let server = HubServer::start();
    let commit = server.push(REPOSITORY, "main", &[("train.jsonl", b"{}")]);
    fetch(&context(dir.path(), &server, None), "train").unwrap();
    // A port that nobody listens on.
    let silent = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let home = dir.path().join("hf").to_str().unwrap().to_owned();
    let asked = Remote::new(Arc::new(move |name: &str| match name {
        "HF_ENDPOINT" => Some(silent.clone()),
        "HF_HOME" => Some(home.clone()),
        _ => None,
    }));
    let pinned = asked.resolve(&pattern(None)).unwrap();
    assert_eq!(pinned.content, Content::Identity(format!("hf://datasets/some/thing@{commit}")));
    assert!(pinned.warning.unwrap().contains("taken as last fetched here"));
    let missing = asked.resolve(&pattern(Some("other"))).unwrap_err();
    assert!(
        missing.what.starts_with("the data set `some/thing` at `other`: http://127.0.0.1:"),
        "{missing:?}"
    );
    assert!(missing.help.contains("HF_ENDPOINT") && missing.help.contains("hf download"));
}

#[test]
fn a_file_of_the_web_is_what_its_digest_says() {
    let dir = tempfile::tempdir().unwrap();
    let server = HubServer::start();
    server.push(REPOSITORY, "main", &[("train.jsonl", b"{\"problem\": \"x\"}\n")]);
    let url = format!("{}/{REPOSITORY}/resolve/main/train.jsonl", server.endpoint());
    let cx = context(dir.path(), &server, Some("hf_canary"));
    let hub = Hub::open(&|name| cx.env(name)).unwrap();
    let blake = blake3::hash(b"{\"problem\": \"x\"}\n");
    let digest = PlainDigest::parse(&format!("blake3:{blake}")).unwrap();
    let path = hub.fetch_plain(&url, digest, &cx).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"{\"problem\": \"x\"}\n");
    assert!(server.seen().iter().all(|seen| seen.authorization.is_none()), "the token is the hub's");
    let asked = server.seen().len();
    hub.fetch_plain(&url, digest, &cx).unwrap();
    assert_eq!(server.seen().len(), asked);
    // By BLAKE3 it has the key of a local copy.
    let pinned = resolver(&cx).resolve(&Remote::plain_pattern(&url, &format!("blake3:{blake}"))).unwrap();
    assert_eq!(pinned.content, Content::Digest(dag_engine::Digest::of(b"{\"problem\": \"x\"}\n")));
    let wrong = format!("sha256:{}", "0".repeat(64));
    let error = hub.fetch_plain(&url, PlainDigest::parse(&wrong).unwrap(), &cx).unwrap_err().to_string();
    assert!(
        error.ends_with(&format!("and should be {wrong}")) && error.contains("the digest is sha256:"),
        "{error}"
    );
}
