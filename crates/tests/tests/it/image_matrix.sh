# Makes images with every tool, and puts each where the matrix wants it. In: $work, a directory;
# $base, an image of busybox; $plain, $tls, $basic, $token, registries. Out: a line per image,
# `NAME PLACE DIGEST`, the digest being the manifest's as it was pushed.
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs
own="--root $work/own --runroot $work/ownrun --storage-driver vfs"
made() { skopeo copy -q --src-tls-verify=false --dest-tls-verify=false "$@"; }
say() { # NAME PLACE [credentials]
    digest=$(skopeo inspect --tls-verify=false ${3:+--creds $3} --raw "docker://$2" | sha256sum)
    echo "image $1 $2 sha256:${digest%% *}"
}
marked() { # FORMAT MARK: a container of buildah's, committed
    c=$(buildah $own from --tls-verify=false "$base")
    echo "$2" >"$work/mark"
    buildah $own copy -q "$c" "$work/mark" /mark >/dev/null
    buildah $own config --cmd '["cat","/mark"]' "$c"
    buildah $own commit -q -f "$1" "$c" "localhost/$2" >/dev/null
    buildah $own rm "$c" >/dev/null
}

marked oci buildah-oci
marked docker buildah-docker
for name in buildah-oci buildah-docker; do
    buildah $own push -q --tls-verify=false "localhost/$name" "docker://$plain/m/$name:1"
    say $name "$plain/m/$name:1"
done
buildah $own push -q --tls-verify=false --disable-compression localhost/buildah-oci "docker://$plain/m/buildah-plain:1"
say buildah-plain "$plain/m/buildah-plain:1"

# podman: from a Containerfile, and an index of two architectures.
mkdir -p "$work/context"
echo podman-build >"$work/context/mark"
printf 'FROM %s\nCOPY mark /mark\nCMD ["cat","/mark"]\n' "$base" >"$work/context/Containerfile"
podman_own="command podman $own --cgroup-manager cgroupfs --events-backend none --tmpdir $work/libpod"
$podman_own build -q --tls-verify=false --isolation chroot -t localhost/podman-build "$work/context" >/dev/null
$podman_own build -q --tls-verify=false --isolation chroot --arch s390x -t localhost/other "$work/context" >/dev/null
$podman_own manifest create localhost/index >/dev/null
$podman_own manifest add localhost/index containers-storage:localhost/other >/dev/null
$podman_own manifest add localhost/index containers-storage:localhost/podman-build >/dev/null
$podman_own manifest push -q --all --tls-verify=false localhost/index "docker://$plain/m/podman-index:1"
say podman-index "$plain/m/podman-index:1"
$podman_own manifest push -q --all --tls-verify=false --format v2s2 localhost/index "docker://$plain/m/podman-list:1"
say podman-list "$plain/m/podman-list:1"

# umoci: a layout, changed in place.
made "docker://$base" "oci:$work/umoci:1"
echo umoci >"$work/mark"
umoci insert --image "$work/umoci:1" "$work/mark" /mark
umoci config --image "$work/umoci:1" --config.cmd cat --config.cmd /mark
made "oci:$work/umoci:1" "docker://$plain/m/umoci:1"
say umoci "$plain/m/umoci:1"

# skopeo: other formats, compressions and registries.
source="docker://$plain/m/buildah-oci:1"
for compression in gzip zstd zstd:chunked; do
    name=skopeo-${compression#*:}
    made --dest-compress-format "$compression" "$source" "docker://$plain/m/$name:1"
    say "$name" "$plain/m/$name:1"
done
made --format v2s2 "$source" "docker://$plain/m/skopeo-docker:1"
say skopeo-docker "$plain/m/skopeo-docker:1"
made "$source" "docker://$tls/m/tls:1"
say tls "$tls/m/tls:1"
made --dest-creds user:secret "$source" "docker://$basic/m/basic:1"
say basic "$basic/m/basic:1" user:secret
made --dest-creds user:secret "$source" "docker://$token/m/token:1"
say token "$token/m/token:1" user:secret

# Files, to be loaded.
made "$source" "oci:$work/files/layout:localhost/files/layout:1"
made "$source" "oci-archive:$work/files/oci.tar:localhost/files/oci:1"
made "$source" "dir:$work/files/dir"
made "$source" "docker-archive:$work/files/saved.tar:localhost/files/saved:1"
$podman_own save -q --multi-image-archive -o "$work/files/several.tar" localhost/podman-build localhost/buildah-docker
$podman_own save -q --format oci-archive -o "$work/files/podman.tar" localhost/podman-build
gzip -k "$work/files/several.tar"
rm -rf "$work/own" "$work/ownrun" "$work/libpod"
