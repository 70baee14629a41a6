#!/usr/bin/env python3
"""Writes the golden manifests beside it, from the table of FRACTAL-API.md and with nothing of package hive, so that codec and
signature are held against a second implementation. Needs the Python package "cryptography"; the tests only read the files."""
import base64, hashlib, os, struct, uuid
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

HERE = os.path.dirname(os.path.abspath(__file__))
KEY = base64.b64decode("sETuhFwbQf9NJVAEOhu/QFhhhmKxY+f4VNFrO2IowGk=")    # the volume
OTHER = base64.b64decode("CHmZHrfC5uRMUs3J7qjmc4dl+32f157mfLdV9b5Ca2o=")  # the volume that the clone was made from
MACHINE = uuid.UUID("0f8fad5b-d9cb-469f-a165-70867728950e")

u64 = lambda v: struct.pack("<Q", v)
sized = lambda b: u64(len(b)) + b
pubkey = lambda seed: Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

def manifest(creation, path, size, total, generation, parent, data):
    return (u64(creation) + sized(MACHINE.bytes) + sized(path.encode()) + u64(size) + u64(total) + u64(generation)
            + parent + sized(data.encode()))

def write(name, body):
    with open(os.path.join(HERE, name), "wb") as f:
        f.write(body + Ed25519PrivateKey.from_private_bytes(KEY).sign(body))
    print(name, hashlib.sha512(body).hexdigest())
    return hashlib.sha512(body).digest()

CID = "ipfs://bafyreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
root = write("root.signed", manifest(1700000000, "/var/lib/fractal/volumes/x/snapshots/1", 5 << 30, 5 << 30, 1, b"\0", CID))
write("child.signed", manifest(1700000060, "/väg/雪", 64, (5 << 30) + 64, 2, b"\1" + root + b"\0", CID))
write("clone.signed", manifest(1700000120, "", 1000, (5 << 30) + 1000, 2**64 - 1,
      b"\1" + root + b"\1" + pubkey(OTHER) + hashlib.blake2s(OTHER).digest(), CID))
