//! The images that a node has: folders below `images/` of its data directory, each with an `image.toml`
//! (`manifest`) and the files that it names.
//!
//! An import copies a folder of the host under a name of its own that begins with a dot, sums what it
//! copies, and renames it when all of it is on the disk; so what has a name is whole. All of it blocks,
//! and runs off the async threads.

mod manifest;

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use sha2::{Digest, Sha256};

use self::manifest::{Known, Manifest};
use super::Shared;
use crate::error::{DWCPError, Result};
use crate::machine;
use crate::model::limits::IMAGE_DEFAULT;
use crate::model::{Image, Timestamp, VM, new_uuid, validate};

/// What is being written, or removed.
const UNFINISHED: &str = ".new-";
/// Most images of a node: a list of them fits a reply.
const IMAGES_MAX: usize = 1_000;
/// What is copied at a time.
const PIECE: usize = 1 << 20;
/// Memory of a VM in which an image that can be booted at all can be.
const ROOMY: u64 = 64 << 30;

/// Annotations of a VM about its kernel begin so.
const KERNEL: &str = "dwcp.kernel/";
/// The one that adds words to its command line.
const CMDLINE: &str = "dwcp.kernel/cmdline";

/// What a VM boots.
#[derive(Clone, Debug)]
pub(super) enum Boots {
    /// The guest that comes with the library.
    BuiltIn,
    /// An image of the node's store.
    Stored {
        /// The image.
        stored: Arc<Stored>,
        /// The kernel's command line, with the words that the VM adds.
        cmdline: String,
    },
}

impl Boots {
    /// The root disk that it has a copy of, and its size in bytes.
    pub(super) fn disk(&self) -> Option<(&Path, u64)> {
        match self {
            Boots::BuiltIn => None,
            Boots::Stored { stored, .. } => Some((stored.disk.as_deref()?, stored.image.disk)),
        }
    }

    /// The same for the machine of a VM.
    ///
    /// # Errors
    ///
    /// `io` naming the file that cannot be opened, `invalid_config` for what its annotations or files
    /// say that cannot be.
    pub(super) fn image(&self, vm: &VM) -> Result<machine::Image> {
        match self {
            Boots::BuiltIn => {
                let config = &vm.config;
                machine::Image::find(&config.image, config.memory, &vm.annotations)
            }
            Boots::Stored { stored, cmdline } => stored.kernel(cmdline).map(machine::Image::Kernel),
        }
    }

    /// Whether a VM with so much memory can be started with it.
    ///
    /// # Errors
    ///
    /// As those of [`image`](Self::image); `invalid_config` with what is wrong with which of its files.
    pub(super) fn check(&self, memory: u64) -> Result<()> {
        match self {
            Boots::BuiltIn => Ok(()),
            Boots::Stored { stored, cmdline } => stored.kernel(cmdline)?.check(memory),
        }
    }
}

impl Stored {
    /// Its command line, with the words that a VM adds to it by its annotations.
    ///
    /// # Errors
    ///
    /// `invalid_config` naming the annotation.
    fn cmdline(&self, annotations: &BTreeMap<String, String>) -> Result<String> {
        let of_kernel = annotations.keys().filter(|key| key.starts_with(KERNEL));
        if let Some(other) = of_kernel.into_iter().find(|key| *key != CMDLINE) {
            let known = format_args!("is not known; {CMDLINE} is");
            return validate::wrong(&format!("annotations.{other}"), known);
        }
        let words = annotations.get(CMDLINE).map_or("", String::as_str);
        let own = Some(self.image.cmdline.as_str()).filter(|text| !text.is_empty());
        machine::with_words(own, words).map_err(|error| match words {
            "" => error,
            _ => DWCPError::Config(format!("annotations.{CMDLINE}: {}", error.message())),
        })
    }

    /// Its kernel, with what that is started with.
    fn kernel(&self, cmdline: &str) -> Result<machine::KernelImage> {
        let open = |what, path: &PathBuf| {
            let file = File::open(path).map_err(at(path))?;
            machine::BootFile::new(what, file)
        };
        let kernel = open("kernel", &self.kernel)?;
        let initrd = self.initrd.as_ref().map(|path| open("initrd", path));
        machine::KernelImage::new(kernel, initrd.transpose()?, Some(cmdline))
    }
}

/// The images of a node.
#[derive(Debug)]
pub(super) struct Images {
    /// Where they lie; `None` for a node that keeps nothing.
    root: Option<PathBuf>,
    known: RwLock<BTreeMap<String, Arc<Stored>>>,
    /// Held while one is brought in or removed.
    changing: Mutex<()>,
}

/// An image that is there.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) image: Image,
    pub(super) kernel: PathBuf,
    pub(super) initrd: Option<PathBuf>,
    pub(super) disk: Option<PathBuf>,
}

impl Images {
    /// Those that are there. Removes what was left of such as were being written when the node ended.
    ///
    /// # Errors
    ///
    /// That of a directory that cannot be read.
    pub(super) fn open(data_dir: Option<&Path>) -> Result<Images> {
        let images = Images {
            root: data_dir.map(|dir| dir.join("images")),
            known: RwLock::default(),
            changing: Mutex::default(),
        };
        let Some(root) = &images.root else {
            return Ok(images);
        };
        let entries = match std::fs::read_dir(root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(images),
            other => other.map_err(at(root))?,
        };
        for entry in entries {
            let path = entry.map_err(at(root))?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            if name.starts_with(UNFINISHED) {
                std::fs::remove_dir_all(&path).map_err(at(&path))?;
                continue;
            }
            match stored(&path) {
                Ok(stored) if stored.image.name == name => images.add(stored),
                Ok(other) => {
                    tracing::warn!(name, says = other.image.name, "an image has another's name");
                }
                // The others can be used all the same, and whoever names this one is told.
                Err(error) => tracing::warn!(name, %error, "an image cannot be used"),
            }
        }
        Ok(images)
    }

    /// The image of that name.
    pub(super) fn find(&self, name: &str) -> Option<Arc<Stored>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(name).cloned()
    }

    /// All of them, by name.
    pub(super) fn list(&self) -> Vec<Image> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.values().map(|one| one.image.clone()).collect()
    }

    /// Brings in the image in a folder of this host, under `name` or the one it has.
    ///
    /// # Errors
    ///
    /// `invalid_config` naming what is wrong with it, such as a kernel that is neither a bzImage nor an ELF
    /// file; `already_exists` where another image has the
    /// name, `invalid_operation` on a node that keeps nothing, and `io` naming the file.
    pub(super) fn import(&self, from: &Path, name: Option<&str>) -> Result<Image> {
        let root = self.root("import_image")?;
        let mut manifest = read_manifest(from)?;
        if let Some(name) = name {
            name.clone_into(&mut manifest.name);
        }
        let name = manifest.name.clone();
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let there = self.find(&name);
        if there.is_none() && self.list().len() >= IMAGES_MAX {
            return Err(DWCPError::ResourceLimit(format!(
                "images: there are {IMAGES_MAX}, which is the limit; remove some"
            )));
        }
        let staged = Staged::make(root)?;
        for known in manifest.parts() {
            staged.bring(from, known)?;
        }
        let digest = manifest.digest();
        if let Some(there) = there {
            if there.image.digest == digest {
                return Ok(there.image.clone());
            }
            return Err(DWCPError::AlreadyExists(format!(
                "import_image: there is another image called {name}; remove it, or name this one \
                 otherwise"
            )));
        }
        staged.write(manifest::FILE, manifest.encode()?.as_bytes())?;
        // Nobody is to learn only from a VM that does not start that it is no kernel.
        let boots = self::stored(&staged.path)?;
        let cmdline = boots.cmdline(&BTreeMap::new())?;
        boots.kernel(&cmdline)?.check(ROOMY)?;
        let folder = staged.commit(&root.join(&name))?;
        let stored = stored(&folder)?;
        let image = stored.image.clone();
        tracing::info!(name, digest, "imported an image");
        self.add(stored);
        Ok(image)
    }

    /// Removes an image that no VM names.
    ///
    /// # Errors
    ///
    /// `not_found` for one that is not there, that of `may` which is asked once nobody can begin to
    /// use it, and `io` naming the file.
    pub(super) fn remove(&self, name: &str, may: impl FnOnce() -> Result<()>) -> Result<()> {
        let root = self.root("remove_image")?;
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = {
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            known.remove(name)
        };
        let Some(stored) = taken else {
            return Err(unknown("remove_image", name));
        };
        let gone = root.join(format!("{UNFINISHED}{}", new_uuid()));
        let path = root.join(name);
        let renamed = may().and_then(|()| std::fs::rename(&path, &gone).map_err(at(&path)));
        if let Err(error) = renamed {
            self.known
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(name.to_owned(), stored);
            return Err(error);
        }
        std::fs::remove_dir_all(&gone).map_err(at(&gone))
    }

    fn root(&self, what: &str) -> Result<&Path> {
        self.root.as_deref().ok_or_else(|| {
            DWCPError::InvalidOperation(format!(
                "{what}: images need a data_dir, and this node was started without one"
            ))
        })
    }

    fn add(&self, stored: Stored) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(stored.image.name.clone(), Arc::new(stored));
    }
}

impl Shared {
    /// What a VM with that image and those annotations boots.
    ///
    /// # Errors
    ///
    /// `not_found` for an image that is not there, `invalid_config` for annotations that it does not
    /// understand.
    pub(super) fn boots(
        &self,
        image: &str,
        memory: u64,
        annotations: &BTreeMap<String, String>,
    ) -> Result<Boots> {
        if image == IMAGE_DEFAULT {
            machine::Image::find(image, memory, annotations)?;
            if let Some(key) = annotations.keys().find(|key| key.starts_with(KERNEL)) {
                return validate::wrong(
                    &format!("annotations.{key}"),
                    format_args!("`{IMAGE_DEFAULT}` has no kernel that it could be about"),
                );
            }
            return Ok(Boots::BuiltIn);
        }
        let Some(stored) = self.images.find(image) else {
            return Err(DWCPError::NotFound(format!(
                "image: this node has no image `{image}`; import_image brings one in, and \
                 `{IMAGE_DEFAULT}` is always there"
            )));
        };
        let cmdline = stored.cmdline(annotations)?;
        Ok(Boots::Stored { stored, cmdline })
    }
}

impl Shared {
    /// What tells the image of a VM from others of its name, where that is not built in.
    pub(super) fn image_digest(&self, vm: &VM) -> Result<Option<String>> {
        let config = &vm.config;
        let boots = self.boots(&config.image, config.memory, &vm.annotations)?;
        Ok(match boots {
            Boots::BuiltIn => None,
            Boots::Stored { stored, .. } => Some(stored.image.digest.clone()),
        })
    }

    /// Whether a VM from another node, whose image has that digest there, boots the same here: it may be
    /// reset.
    ///
    /// # Errors
    ///
    /// `not_found` for an image that is not there, `invalid_config` for another one of its name.
    pub(super) fn check_boots(&self, vm: &VM, digest: Option<&str>) -> Result<()> {
        if self.image_digest(vm)?.as_deref() == digest {
            return Ok(());
        }
        validate::wrong(
            "image",
            format_args!("`{}` is another one on this node", vm.config.image),
        )
    }
}

/// The error for an image that is not there.
pub(super) fn unknown(what: &str, name: &str) -> DWCPError {
    DWCPError::NotFound(format!("{what}: this node has no image {name}"))
}

/// An image that is being brought in. Dropped before it is committed, nothing of it stays.
struct Staged {
    root: PathBuf,
    path: PathBuf,
}

impl Staged {
    fn make(root: &Path) -> Result<Staged> {
        let path = root.join(format!("{UNFINISHED}{}", new_uuid()));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(at(&path))?;
        Ok(Staged {
            root: root.to_owned(),
            path,
        })
    }

    /// Copies a file and sums it; holes stay holes.
    fn bring(&self, from: &Path, known: Known<'_>) -> Result<()> {
        let Known {
            role,
            part,
            longest,
        } = known;
        let path = from.join(&part.file);
        let mut source = File::open(&path).map_err(at(&path))?;
        let size = source.metadata().map_err(at(&path))?;
        if !size.is_file() || size.len() == 0 || size.len() > longest {
            return Err(DWCPError::Config(format!(
                "{role}.file: {}: must be a file of 1 to {longest} bytes",
                path.display()
            )));
        }
        let to = self.path.join(&part.file);
        let mut copy = create(&to)?;
        let mut sum = Sha256::new();
        let mut piece = vec![0; PIECE];
        let mut at_byte = 0;
        loop {
            let read = source.read(&mut piece).map_err(at(&path))?;
            if read == 0 {
                break;
            }
            let bytes = &piece[..read];
            sum.update(bytes);
            at_byte += read as u64;
            if at_byte > longest {
                return Err(DWCPError::Config(format!("{role}.file: it grows")));
            }
            if bytes.iter().all(|&byte| byte == 0) {
                copy.set_len(at_byte).map_err(at(&to))?;
                io::Seek::seek(&mut copy, io::SeekFrom::Start(at_byte)).map_err(at(&to))?;
            } else {
                copy.write_all(bytes).map_err(at(&to))?;
            }
        }
        copy.sync_all().map_err(at(&to))?;
        let sum = manifest::hex(&sum.finalize());
        if let Some(said) = &part.sha256
            && !said.eq_ignore_ascii_case(&sum)
        {
            return Err(DWCPError::Config(format!(
                "{role}.sha256: {} has {sum}, not {said}",
                path.display()
            )));
        }
        part.sha256 = Some(sum);
        Ok(())
    }

    fn write(&self, file: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path.join(file);
        let mut file = create(&path)?;
        file.write_all(bytes)
            .and_then(|()| file.sync_all())
            .map_err(at(&path))
    }

    /// Gives it its name.
    fn commit(self, to: &Path) -> Result<PathBuf> {
        let sync = |path: &Path| File::open(path).and_then(|dir| dir.sync_all());
        sync(&self.path).map_err(at(&self.path))?;
        // What is there under that name could not be read: it is replaced.
        if to.exists() {
            std::fs::remove_dir_all(to).map_err(at(to))?;
        }
        std::fs::rename(&self.path, to).map_err(at(to))?;
        sync(&self.root).map_err(at(&self.root))?;
        Ok(to.to_owned())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Gone where it was committed.
        match std::fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.path.display(), %error, "the rest of an image stays");
            }
            _ => {}
        }
    }
}

fn create(path: &Path) -> Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(at(path))
}

fn read_manifest(folder: &Path) -> Result<Manifest> {
    let path = folder.join(manifest::FILE);
    let mut bytes = Vec::new();
    let file = File::open(&path).map_err(at(&path))?;
    file.take(manifest::LONGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(at(&path))?;
    if bytes.len() as u64 > manifest::LONGEST {
        return Err(DWCPError::Config(format!(
            "{}: longer than {} bytes",
            path.display(),
            manifest::LONGEST
        )));
    }
    Manifest::decode(&bytes)
}

/// The image in a folder of the store.
fn stored(folder: &Path) -> Result<Stored> {
    let manifest = read_manifest(folder)?;
    let size = |path: &PathBuf| {
        std::fs::metadata(path)
            .map(|data| data.len())
            .map_err(at(path))
    };
    let path = |file: &str| folder.join(file);
    let kernel = path(&manifest.kernel.file);
    let initrd = manifest.initrd.as_ref().map(|part| path(&part.file));
    let disk = manifest.disk.as_ref().map(|part| path(&part.file));
    let about = folder.join(manifest::FILE);
    let created = std::fs::metadata(&about).and_then(|data| data.modified());
    let created = created.map_err(at(&about))?;
    let micros = created
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |time| time.as_micros());
    Ok(Stored {
        image: Image {
            digest: manifest.digest(),
            kernel: size(&kernel)?,
            initrd: initrd.as_ref().map_or(Ok(0), size)?,
            disk: disk.as_ref().map_or(Ok(0), size)?,
            created_at: Timestamp::from_unix_micros(i64::try_from(micros).unwrap_or(i64::MAX)),
            name: manifest.name,
            cmdline: manifest.cmdline,
        },
        kernel,
        initrd,
        disk,
    })
}

/// What goes wrong with a file, with its path.
fn at(path: &Path) -> impl FnOnce(io::Error) -> DWCPError {
    let path = path.display().to_string();
    move |error| DWCPError::Io(format!("{path}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::smallest_kernel;

    /// A folder to import from, and a data directory.
    fn places() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let all = tempfile::tempdir().unwrap();
        let (from, data) = (all.path().join("from"), all.path().join("data"));
        std::fs::create_dir(&from).unwrap();
        std::fs::write(from.join("vmlinuz"), smallest_kernel()).unwrap();
        std::fs::write(from.join("initrd"), b"initrd").unwrap();
        let disk = File::create(from.join("root.img")).unwrap();
        disk.set_len(8 << 20).unwrap();
        let text = "format = 1\nname = \"mini\"\ncmdline = \"quiet\"\n[kernel]\nfile = \"vmlinuz\"\n\
                    [initrd]\nfile = \"initrd\"\n[disk]\nfile = \"root.img\"\n";
        std::fs::write(from.join("image.toml"), text).unwrap();
        (all, from, data)
    }

    #[test]
    fn an_import_is_there_after_a_restart_and_until_it_is_removed() {
        let (_all, from, data) = places();
        let images = Images::open(Some(&data)).unwrap();
        let image = images.import(&from, None).unwrap();
        assert_eq!(
            (image.name.as_str(), image.kernel, image.initrd, image.disk),
            ("mini", smallest_kernel().len() as u64, 6, 8 << 20)
        );
        assert_eq!(images.import(&from, None).unwrap(), image, "again");
        let other = images.import(&from, Some("other")).unwrap();
        assert_eq!(other.digest, image.digest, "the digest is not of names");

        let images = Images::open(Some(&data)).unwrap();
        assert_eq!(images.list(), [image, other]);
        let stored = images.find("mini").unwrap();
        assert_eq!(std::fs::read(&stored.kernel).unwrap(), smallest_kernel());
        use std::os::unix::fs::MetadataExt;
        let disk = std::fs::metadata(stored.disk.as_ref().unwrap()).unwrap();
        assert_eq!((disk.len(), disk.blocks()), (8 << 20, 0), "holes stay");

        let refused = || Err(DWCPError::InvalidOperation("in use".into()));
        assert!(images.remove("mini", refused).is_err());
        assert!(images.find("mini").is_some(), "all is as it was");
        images.remove("mini", || Ok(())).unwrap();
        let error = images.remove("mini", || Ok(())).unwrap_err();
        assert!(matches!(error, DWCPError::NotFound(_)), "{error}");
        assert_eq!(Images::open(Some(&data)).unwrap().list().len(), 1);
    }

    #[test]
    fn what_is_not_what_it_says_changes_nothing() {
        let (_all, from, data) = places();
        let images = Images::open(Some(&data)).unwrap();
        let text = std::fs::read_to_string(from.join("image.toml")).unwrap();
        for (from_text, to, names) in [
            ("file = \"vmlinuz\"", "file = \"vmlinux\"", "vmlinux"),
            (
                "file = \"vmlinuz\"",
                "file = \"vmlinuz\"\nsha256 = \"0000000000000000000000000000000000000000000000000000000000000000\"",
                "kernel.sha256",
            ),
            ("format = 1", "format = 9", "format 9"),
        ] {
            let wrong = text.replacen(from_text, to, 1);
            std::fs::write(from.join("image.toml"), wrong).unwrap();
            let error = images.import(&from, None).unwrap_err();
            assert!(error.message().contains(names), "{error}");
            assert_eq!(images.list(), []);
            let left = std::fs::read_dir(data.join("images")).map_or(0, |all| all.count());
            assert_eq!(left, 0, "{to}");
        }
        std::fs::write(from.join("image.toml"), &text).unwrap();
        let mut cut = smallest_kernel();
        cut.truncate(100);
        for (kernel, says) in [
            (&b"a text"[..], "neither a bzImage nor an ELF file"),
            (&cut, "truncated"),
        ] {
            std::fs::write(from.join("vmlinuz"), kernel).unwrap();
            let error = images.import(&from, None).unwrap_err();
            let of_kernel = error.message().starts_with("kernel: ");
            assert!(of_kernel && error.message().contains(says), "{error}");
            assert_eq!(images.list(), []);
        }
        std::fs::write(from.join("vmlinuz"), smallest_kernel()).unwrap();
        std::fs::write(from.join("image.toml"), text).unwrap();
        images.import(&from, None).unwrap();
        std::fs::write(from.join("vmlinuz"), b"another").unwrap();
        let error = images.import(&from, None).unwrap_err();
        assert!(matches!(error, DWCPError::AlreadyExists(_)), "{error}");
    }

    #[test]
    fn a_node_that_keeps_nothing_says_so_and_rests_are_removed() {
        let (_all, from, data) = places();
        let none = Images::open(None).unwrap();
        let error = none.import(&from, None).unwrap_err();
        assert!(error.message().contains("data_dir"), "{error}");

        let rest = data.join("images/.new-1");
        std::fs::create_dir_all(&rest).unwrap();
        std::fs::create_dir_all(data.join("images/broken")).unwrap();
        let images = Images::open(Some(&data)).unwrap();
        assert!(!rest.exists());
        assert_eq!(images.list(), [], "one that cannot be read is not there");
        assert_eq!(images.import(&from, Some("broken")).unwrap().name, "broken");
    }
}
