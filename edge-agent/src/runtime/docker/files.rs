//! Carries files into volumes and out of containers as tars.
use super::{Docker, container::mount, failed, gone_is_fine, host_labels, is_ours};
use crate::runtime::{Cause, Done, File, MountSpec, Runtime, RuntimeError, labels, names::Names};
use bollard::{
    body_full,
    models::{ContainerCreateBody, HostConfig},
    query_parameters as query,
};
use bytes::Bytes;
use futures_util::TryStreamExt;
use redforge_shared::ids::Digest;
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
};

/// Where the helper sees the volume; no image has such a path, so nothing of the image is copied into the volume.
const CARRY_PATH: &str = "/redforge-put";
/// Most bytes read out of a container's folder, tar headers included.
const READ_LIMIT: usize = 4 << 20;
/// Most bytes read of a folder of which only digests are kept.
const TREE_LIMIT: usize = 192 << 20;

impl Docker {
    pub(super) async fn carry_files(&self, names: &Names, image: &str, volume: &str, files: &[File]) -> Done<()> {
        // Engines make missing folders with rights of their own choice.
        let nested = files.iter().any(|f| f.name.contains('/'));
        let tar = if nested { pack_with_folders(volume, files)? } else { pack(volume, files)? };
        let helper = names.helper(volume);
        // One that an interrupted pass left behind.
        self.remove_helper(names, &helper).await?;
        let client = self.client().await?;
        let mut labels = host_labels(names);
        labels.insert(labels::HELPER.into(), "put".into());
        let carry = MountSpec { volume: volume.into(), path: CARRY_PATH.into(), read_only: false };
        let body = ContainerCreateBody {
            image: Some(image.into()),
            // Never run; some images have no command, which a create does not accept.
            cmd: Some(vec!["put".into()]),
            labels: Some(labels),
            host_config: Some(HostConfig {
                network_mode: Some("none".into()),
                mounts: Some(vec![mount(&carry)]),
                ..Default::default()
            }),
            ..Default::default()
        };
        let options = query::CreateContainerOptions { name: Some(helper.clone()), ..Default::default() };
        client.create_container(Some(options), body).await.map_err(|e| failed("create", &helper, e))?;
        let options = query::UploadToContainerOptions { path: CARRY_PATH.into(), ..Default::default() };
        let put = client.upload_to_container(&helper, Some(options), body_full(tar.into())).await;
        let removed = self.remove_helper(names, &helper).await;
        put.map_err(|e| failed("put files into", volume, e))?;
        removed
    }

    pub(super) async fn upload_below(&self, container: &str, folder: &str, files: &[File]) -> Done<()> {
        let tar = pack_with_folders(container, files)?;
        let options = query::UploadToContainerOptions { path: folder.into(), ..Default::default() };
        let put = self.client().await?.upload_to_container(container, Some(options), body_full(tar.into())).await;
        put.map_err(|e| failed("put files into", container, e))
    }

    async fn remove_helper(&self, names: &Names, helper: &str) -> Done<()> {
        let there = self.client().await?.inspect_container(helper, None::<query::InspectContainerOptions>).await;
        match there {
            Ok(c) if is_ours(names, c.config.as_ref().and_then(|c| c.labels.as_ref())) => {
                self.remove_container(helper).await
            }
            Ok(_) => Err(RuntimeError::Foreign { name: helper.into() }),
            Err(e) => gone_is_fine(Err(failed("inspect", helper, e))),
        }
    }

    pub(super) async fn fetch_files(&self, container: &str, folder: &str) -> Done<BTreeMap<String, Vec<u8>>> {
        let options = query::DownloadFromContainerOptions { path: folder.into() };
        let mut parts = std::pin::pin!(self.client().await?.download_from_container(container, Some(options)));
        let mut tar = Vec::new();
        while let Some(part) = parts.try_next().await.map_err(|e| failed("read files of", container, e))? {
            if tar.len() + part.len() > READ_LIMIT {
                return Err(RuntimeError::TooLarge { name: format!("{container}:{folder}"), limit: READ_LIMIT });
            }
            tar.extend_from_slice(&part);
        }
        unpack(&tar).map_err(|e| RuntimeError::Failed {
            act: "read files of",
            name: container.into(),
            source: Box::new(e),
        })
    }

    /// Reads the folder as it comes, and keeps no file's bytes.
    pub(super) async fn digest_tree(&self, container: &str, folder: &str) -> Done<BTreeMap<String, Digest>> {
        let options = query::DownloadFromContainerOptions { path: folder.into() };
        let mut parts = std::pin::pin!(self.client().await?.download_from_container(container, Some(options)));
        let (out, came) = tokio::sync::mpsc::channel(4);
        let digesting = tokio::task::spawn_blocking(move || digest(Parts { came, part: Bytes::new() }));
        let mut total = 0;
        while let Some(part) = parts.try_next().await.map_err(|e| failed("read files of", container, e))? {
            total += part.len();
            if total > TREE_LIMIT {
                return Err(RuntimeError::TooLarge { name: format!("{container}:{folder}"), limit: TREE_LIMIT });
            }
            // Nobody listens when the tar is broken: the digesting says so.
            if out.send(part).await.is_err() {
                break;
            }
        }
        drop(out);
        let failed = |source: Cause| RuntimeError::Failed { act: "read files of", name: container.into(), source };
        let digests = digesting.await.map_err(|e| failed(Box::new(e)))?;
        digests.map_err(|e| failed(Box::new(e)))
    }
}

/// What comes piece by piece, as one reader.
struct Parts {
    came: tokio::sync::mpsc::Receiver<Bytes>,
    part: Bytes,
}

impl Read for Parts {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        while self.part.is_empty() {
            let Some(part) = self.came.blocking_recv() else { return Ok(0) };
            self.part = part;
        }
        let n = into.len().min(self.part.len());
        into[..n].copy_from_slice(&self.part.split_to(n));
        Ok(n)
    }
}

/// Digests of the regular files below the tar's one folder.
fn digest(tar: impl Read) -> std::io::Result<BTreeMap<String, Digest>> {
    let mut digests = BTreeMap::new();
    for entry in tar::Archive::new(tar).entries()? {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = entry.path()?.to_string_lossy().into_owned();
        let Some((_, path)) = path.split_once('/') else { continue };
        let path = path.to_owned();
        let mut bytes = Vec::new();
        entry.by_ref().take(TREE_LIMIT as u64).read_to_end(&mut bytes)?;
        digests.insert(path, Digest::of(&bytes));
    }
    Ok(digests)
}

/// Folders that are there already keep what is in them.
fn pack_with_folders(container: &str, files: &[File]) -> Done<Vec<u8>> {
    let (mut all, mut folders): (Vec<(String, Option<&File>)>, _) = (Vec::new(), BTreeSet::new());
    for file in files {
        let parts: Vec<&str> = file.name.split('/').collect();
        for depth in 1..parts.len() {
            let folder = format!("{}/", parts[..depth].join("/"));
            if folders.insert(folder.clone()) {
                all.push((folder, None));
            }
        }
        all.push((file.name.clone(), Some(file)));
    }
    let bad = |e: std::io::Error| RuntimeError::Refused {
        act: "put files into",
        name: container.into(),
        source: Box::new(e),
    };
    let mut tar = tar::Builder::new(Vec::new());
    let owner = u64::from(files.first().map_or(0, |f| f.uid));
    for (name, file) in all {
        let mut header = tar::Header::new_ustar();
        header.set_uid(owner);
        header.set_gid(owner);
        let bytes = file.map_or(&[][..], |f| f.bytes.as_slice());
        header.set_size(bytes.len() as u64);
        header.set_mode(file.map_or(0o755, |f| f.mode));
        header.set_entry_type(if file.is_some() { tar::EntryType::Regular } else { tar::EntryType::Directory });
        header.set_cksum();
        tar.append_data(&mut header, &name, bytes).map_err(bad)?;
    }
    tar.into_inner().map_err(bad)
}

fn pack(volume: &str, files: &[File]) -> Done<Vec<u8>> {
    let bad =
        |e: std::io::Error| RuntimeError::Refused { act: "put files into", name: volume.into(), source: Box::new(e) };
    let mut tar = tar::Builder::new(Vec::new());
    for file in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(file.bytes.len() as u64);
        header.set_mode(file.mode);
        header.set_uid(u64::from(file.uid));
        header.set_gid(u64::from(file.uid));
        header.set_cksum();
        tar.append_data(&mut header, &file.name, file.bytes.as_slice()).map_err(bad)?;
    }
    tar.into_inner().map_err(bad)
}

/// The regular files directly in the tar's one folder.
fn unpack(tar: &[u8]) -> std::io::Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(tar).entries()? {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let Some(name) = entry.path()?.file_name().map(|n| n.to_string_lossy().into_owned()) else { continue };
        let mut bytes = Vec::new();
        entry.by_ref().take(READ_LIMIT as u64).read_to_end(&mut bytes)?;
        files.insert(name, bytes);
    }
    Ok(files)
}
