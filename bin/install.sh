#!/usr/bin/env bash
# Lays out an installation in a folder: bin/ with programs and scripts, conf/ with the samples, sql/ and docs/.
# Settings that are there already are left alone, so that the same command upgrades.
. "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/base.sh"

[[ $# -eq 1 && $1 != -* ]] || {
    echo "usage: install.sh FOLDER" >&2
    exit 2
}
folder=$(absolute "$1")
find_program qmq-tools
mkdir -p -- "$folder/bin" "$folder/conf"
for program in "${QMQ_PACKAGES[@]}"; do
    # A running program cannot be written to, but it can be replaced.
    cp -- "$QMQ_BIN_DIR/$program" "$folder/bin/.$program"
    mv -f -- "$folder/bin/.$program" "$folder/bin/$program"
done
for script in base broker delay metaserver tools; do
    cp -- "$QMQ_SOURCE/bin/$script.sh" "$folder/bin/"
done
cp -R -- "$QMQ_SOURCE/sql" "$QMQ_SOURCE/docs" "$QMQ_SOURCE/LICENSE" "$QMQ_SOURCE/README.md" "$folder/"
(cd -- "$QMQ_SOURCE/conf" && find . -type f) | while IFS= read -r sample; do
    [[ -e $folder/conf/$sample ]] || {
        mkdir -p -- "$(dirname -- "$folder/conf/$sample")"
        cp -- "$QMQ_SOURCE/conf/$sample" "$folder/conf/$sample"
    }
done
echo "installed in $folder: bin/metaserver.sh, bin/broker.sh, bin/delay.sh and bin/tools.sh there; settings in conf/"
