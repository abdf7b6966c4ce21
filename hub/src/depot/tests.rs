//! Blobs that come in pieces, again, at once, and wrong.
use super::*;

fn blob(n: usize) -> (Vec<u8>, Digest) {
    let bytes: Vec<u8> = (0..n).map(|i| (i * 7 % 251) as u8).collect();
    let digest = Digest::of(&bytes);
    (bytes, digest)
}

fn depot() -> (Depot, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a folder");
    (Depot::new(dir.path().join("deep/artifacts"), 1 << 20), dir)
}

#[tokio::test]
async fn a_blob_comes_in_pieces_goes_on_where_it_ended_and_is_there_whole() {
    let (depot, _dir) = depot();
    let (bytes, digest) = blob(1000);
    let send =
        async |offset: usize, end: usize| depot.take(digest, 1000, offset as u64, bytes[offset..end].to_vec()).await;
    assert_eq!(send(0, 400).await.expect("taken"), Taken::Part(400));
    // Twice, with a gap, and nothing: how far it is is said, and nothing else changes.
    assert_eq!(send(0, 400).await.expect("left out"), Taken::Part(400));
    assert_eq!(send(500, 600).await.expect("left out"), Taken::Part(400));
    assert_eq!(send(400, 400).await.expect("asked"), Taken::Part(400));
    assert_eq!(depot.size(digest).await.expect("reads"), None, "a part is no blob");
    // Another process goes on.
    let depot = Depot::new(depot.root.to_path_buf(), 1 << 20);
    assert_eq!(depot.take(digest, 1000, 400, bytes[400..].to_vec()).await.expect("taken"), Taken::Whole);
    assert_eq!(depot.size(digest).await.expect("reads"), Some(1000));
    assert_eq!(depot.take(digest, 1000, 0, vec![]).await.expect("there"), Taken::Whole);
    let mut file = depot.open(digest, 990).await.expect("opens").expect("is there");
    assert_eq!(piece(&mut file, 256).await.expect("reads"), &bytes[990..]);
    assert!(piece(&mut file, 256).await.expect("reads").is_empty());
}

#[tokio::test]
async fn what_is_not_what_it_says_is_thrown_away_and_named() {
    let (depot, _dir) = depot();
    let (bytes, _) = blob(100);
    let other = Digest::of(b"another");
    let e = depot.take(other, 100, 0, bytes.clone()).await.expect_err("not that");
    assert!(matches!(&e, DepotError::Digest { wanted, got } if *wanted == other && *got == Digest::of(&bytes)), "{e}");
    // Nothing of it is left to go on from.
    assert_eq!(depot.take(other, 100, 0, vec![]).await.expect("asked"), Taken::Part(0));
    for size in [0, (1 << 20) + 1, u64::MAX] {
        assert!(matches!(depot.take(other, size, 0, vec![]).await, Err(DepotError::Size { .. })), "{size}");
    }
    // More than was announced is left out.
    assert_eq!(depot.take(other, 10, 0, bytes).await.expect("left out"), Taken::Part(0));
}

#[tokio::test]
async fn a_blob_that_rots_on_disk_is_found_and_can_be_sent_again() {
    let (depot, _dir) = depot();
    let (bytes, digest) = blob(5000);
    depot.take(digest, 5000, 0, bytes.clone()).await.expect("taken");
    assert!(depot.verify(digest).await.expect("reads"), "a good one stays");
    let path = depot.whole(digest);
    let mut rotten = bytes.clone();
    rotten[4321] ^= 1;
    fs::write(&path, rotten).expect("own folder");
    assert!(!depot.verify(digest).await.expect("reads"));
    assert_eq!(depot.size(digest).await.expect("reads"), None);
    assert_eq!(depot.take(digest, 5000, 0, bytes).await.expect("taken"), Taken::Whole);
}

#[tokio::test]
async fn only_old_blobs_that_nobody_knows_are_swept() {
    let (depot, _dir) = depot();
    let mut all = Vec::new();
    for n in [10, 20, 30] {
        let (bytes, digest) = blob(n);
        depot.take(digest, n as u64, 0, bytes).await.expect("taken");
        all.push(digest);
    }
    let (bytes, part) = blob(40);
    depot.take(part, 40, 0, bytes[..5].to_vec()).await.expect("taken");
    let now = fs::metadata(depot.whole(all[0])).and_then(|m| m.modified()).expect("a time");
    assert_eq!(depot.sweep(vec![all[0]], now - Duration::from_secs(60)).await.expect("sweeps"), 0, "all are young");
    assert_eq!(depot.sweep(vec![all[0]], now + Duration::from_secs(60)).await.expect("sweeps"), 3);
    assert_eq!(depot.size(all[0]).await.expect("reads"), Some(10));
    assert_eq!(depot.take(part, 40, 0, vec![]).await.expect("asked"), Taken::Part(0));
}

#[test]
fn a_store_is_a_folder() {
    assert_eq!(folder("/srv/artifacts").expect("a path"), PathBuf::from("/srv/artifacts"));
    assert_eq!(folder("file:///srv/artifacts").expect("a path"), PathBuf::from("/srv/artifacts"));
    for other in ["s3://bucket/prefix", "https://host/x", "relative", "", "file://relative"] {
        assert!(folder(other).is_err(), "{other}");
    }
}
