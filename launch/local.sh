#!/usr/bin/env bash
# The demo on this machine, from scratch: makes .venv, then data, checks, pre-training,
# evaluation and a report.
#
#   launch/local.sh [--method=NAME] [--videos=FOLDER] [--workdir=DIR] [--steps=N]
#                   [--config.KEY=VALUE ...]
#
#   --method=NAME       a file in configs/ (default: motionmae)
#   --videos=FOLDER     train on these videos in place of the synthetic set
#   --workdir=DIR       folder of all results (default: runs/demo); start with the same DIR to
#                       go on with a run that was stopped
#   --steps=N           length of pre-training
#   --config.KEY=VALUE  any other value of the config
#
# Needs Python 3.11 or newer, and the network on the first start only. Compiled programs are kept
# (JAX_COMPILATION_CACHE_DIR, see launch/xla_flags.sh).
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

method=motionmae videos='' workdir='runs/demo' steps='' overrides=()

parse_arguments() {
  local argument
  for argument in "$@"; do
    case "$argument" in --*='~/'*) argument="${argument%%=*}=$HOME/${argument#*=??}" ;; esac
    case "$argument" in
      --help | -h) usage && exit 0 ;;
      --method=?*) method="${argument#*=}" ;;
      --videos=?*) videos="${argument#*=}" ;;
      --workdir=?*) workdir="${argument#*=}" ;;
      --steps=?*) steps="--config.steps=${argument#*=}" && overrides+=("$steps") ;;
      --config.*=*) overrides+=("$argument") ;;
      *) die "$argument is not known; write values as in --workdir=DIR. See launch/local.sh --help." ;;
    esac
  done
  if [ -n "$videos" ] && [ ! -d "$videos" ]; then die "--videos=$videos: there is no such folder."; fi
  [ -f "$root/configs/$method.py" ] || die "--method=$method: there is no configs/$method.py."
}

# verb NAME ARGUMENTS...: prints the command and runs it.
verb() {
  local name="$1"
  shift
  printf '\n== python -m vmae_jax.%s %s\n' "$name" "$*" >&2
  PYTHONPATH="$root" "$venv/bin/python" -m "vmae_jax.$name" "$@"
}

# split_list LIST TRAIN VAL: every fifth line goes to VAL, the others to TRAIN.
split_list() {
  awk -v train="$2" -v val="$3" '{ print > (NR % 5 == 0 ? val : train) }' "$1"
}

# left_out FOLDER: names animated pictures, which are not read as videos.
left_out() {
  local found
  found="$(find "$1" -type f \( -iname '*.gif' -o -iname '*.webp' -o -iname '*.apng' \) | head -n 3 | tr '\n' ' ')"
  [ -z "$found" ] || say "Left out, as these are not video files: $found..."
}

# labelled FOLDER: whether check_data found at least five good videos, all with a class, and at least
# two classes.
labelled() {
  [ "$(wc -l <"$1/clean.txt")" -ge 5 ] && [ -e "$1/classes.txt" ] && [ "$(wc -l <"$1/classes.txt")" -gt 1 ] &&
    ! grep -qvE '[ ,][0-9]+$' "$1/clean.txt"
}

# Paths of the user are relative to the current folder, those of the repository start with $root.
run_demo() {
  local check="$workdir/check" run="$workdir/run" train val='' variant=demo
  mkdir -p "$workdir"
  if [ -n "$videos" ]; then
    variant=videos
    verb check_data "$videos" --out="$check" --frames=8 --stride=4 # As configs/*.py:videos read them.
    left_out "$videos"
    train="$check/train.txt"
    if labelled "$check"; then
      val="$check/val.txt"
      split_list "$check/clean.txt" "$train" "$val"
      local held
      held="$(wc -l <"$val")"
      [ "$held" -ge 50 ] ||
        say "Only $held clips are held out: one of them makes $((100 / (held > 0 ? held : 1))) points of an accuracy."
    else
      cp "$check/clean.txt" "$train"
    fi
  else
    local set="$workdir/synthetic"
    verb prepare synthetic --out="$set" --train=6144 --val=1536 --frames=8 --size=24
    verb check_data "$set/train.txt" --out="$check" --frames=8 --stride=1
    train="$check/clean.txt" val="$set/val.txt"
  fi
  if [ "$method" = mam2 ]; then
    case "$variant" in
      demo) train_tokenizer "$train" "$workdir/tokenizer.safetensors" --size=24 --factor=4 --stride=2 ;;
      *) train_tokenizer "$train" "$workdir/tokenizer.safetensors" --size=64 ;;
    esac
  fi
  case "$method" in
    mvd)
      train_teacher video "videomae.py:$variant" "$train"
      train_teacher image "mvd.py:${variant}_image" "$train"
      ;;
    salt) train_teacher pixels "salt.py:${variant}_teacher" "$train" ;;
  esac
  verb pretrain --config="$root/configs/$method.py:$variant" --workdir="$run" \
    --config.data.train="$train" ${val:+--config.log.held_out="$val"} \
    ${overrides[@]+"${overrides[@]}"}
  if [ "$variant" = demo ]; then
    probe_synthetic "$set" "$run"
  elif [ -n "$val" ]; then
    verb probe --checkpoint="$run" --train="$train" --val="$val"
  else
    say "No probe: it needs five videos, all in two or more folders of classes, $videos/CLASS/VIDEO."
  fi
  report "$run" "$train" "$val"
}

# probe_synthetic SET RUN: probes of the motion class and of the look, on a part of the clips.
probe_synthetic() {
  local label folder probes=knn,linear,attentive
  for label in motion look; do
    folder="$1" && [ "$label" = motion ] || folder="$1/look"
    head -n 2304 "$folder/train.txt" >"$folder/probe.txt"
    verb probe --checkpoint="$2" --train="$folder/probe.txt" --val="$folder/val.txt" \
      --probes="$probes" --epochs=40 --out="$2/probe_$label.json"
    probes=attentive # Means of tokens say little about looks.
  done
}

# train_tokenizer LIST FILE FLAGS...: the tokenizer whose codes MAM2 predicts, unless the user gives
# one.
train_tokenizer() {
  local list="$1" file="$2"
  shift 2
  case " ${overrides[*]-} " in *' --config.tokenizer.path='*) return ;; esac
  [ -e "$file" ] || verb train_tokenizer --videos="$list" --out="$file" "$@"
  overrides+=("--config.tokenizer.path=$file")
}

# train_teacher NAME CONFIG LIST: a teacher of MVD or SALT, unless the user gives one.
train_teacher() {
  local name="$1" folder="$workdir/teacher_$1"
  case " ${overrides[*]-} " in *" --config.teachers.$name.path="*) return ;; esac
  verb pretrain --config="$root/configs/$2" --workdir="$folder" --config.data.train="$3" ${steps:+"$steps"}
  overrides+=("--config.teachers.$name.path=$folder")
}

report() {
  local list=LIST
  [ -z "$videos" ] || list="$2"
  cat <<END

Done. In $1:
  loss.png          the loss over steps
  pictures/         what the model predicts for hidden patches, from step 0 on
  checkpoints/      state, loader position and config; the same command goes on from the newest
  metrics.jsonl     all numbers; TensorBoard: .venv/bin/tensorboard --logdir $1
$(compgen -G "$1/probe*.json" >/dev/null && printf '  %-18s%s' 'probe*.json' \
    'accuracies from its features, and from those of an untrained model')

Next, with .venv/bin/python in $root:
END
  if [ -z "$videos" ]; then
    cat <<END
  launch/local.sh --videos=FOLDER        the same on your own videos
  launch/local.sh --method=mme --workdir=runs/demo_mme    another method
  python -m vmae_jax.finetune --config=configs/finetune.py:demo --workdir=runs/tuned \\
    --config.init_from=$1           a classifier of the motions from this encoder
END
  elif [ -n "$3" ]; then
    cat <<END
  python -m vmae_jax.finetune --config=configs/finetune.py:videos --workdir=$workdir/tuned \\
    --config.init_from=$1 --config.data.train=$2 --config.data.val=$3
                                         a classifier of your classes from this encoder
  python -m vmae_jax.predict $workdir/tuned $videos --out=$workdir/predictions
END
  fi
  cat <<END
  python -m vmae_jax.reconstruct $1 VIDEO --out=$workdir/pictures
                                         what this model predicts for hidden parts of a video
  python -m vmae_jax.pretrain --config=configs/$method.py:b,k400 --workdir=runs/${method}_b_k400 \\
    --config.data.train=$list
                                         the paper's recipe, on a GPU or TPU; what else it needs
                                         is at the top of configs/$method.py
END
}

parse_arguments "$@"
ensure_venv "$root/requirements.txt"
backend=cpu
if nvidia-smi -L >/dev/null 2>&1; then
  if "$venv/bin/python" -c 'import importlib.util as u, sys
sys.exit(not any(u.find_spec(f"jax_cuda{n}_plugin") for n in (12, 13)))'; then
    backend=gpu
  else
    say "The GPU of this machine is not used: .venv/bin/pip install 'jax[cuda13]', and start again."
  fi
fi
eval "$(bash "$root/launch/xla_flags.sh" "$backend")"
run_demo
