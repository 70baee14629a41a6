package backing

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// ErrStream: the bytes are no send stream of a version that is known here, or they are damaged.
var ErrStream = errors.New("damaged or unknown send stream")

// SendKind is a command of a send stream; numbers are those of the kernel's fs/btrfs/send.h.
type SendKind uint16

// The commands. Those from SendFallocate on need version 2, SendEnableVerity version 3.
const (
	SendSubvol       SendKind = 1
	SendSnapshot     SendKind = 2
	SendMkfile       SendKind = 3
	SendMkdir        SendKind = 4
	SendMknod        SendKind = 5
	SendMkfifo       SendKind = 6
	SendMksock       SendKind = 7
	SendSymlink      SendKind = 8
	SendRename       SendKind = 9
	SendLink         SendKind = 10
	SendUnlink       SendKind = 11
	SendRmdir        SendKind = 12
	SendSetXattr     SendKind = 13
	SendRemoveXattr  SendKind = 14
	SendWrite        SendKind = 15
	SendClone        SendKind = 16
	SendTruncate     SendKind = 17
	SendChmod        SendKind = 18
	SendChown        SendKind = 19
	SendUtimes       SendKind = 20
	SendEnd          SendKind = 21
	SendUpdateExtent SendKind = 22
	SendFallocate    SendKind = 23
	SendFileattr     SendKind = 24
	SendEncodedWrite SendKind = 25
	SendEnableVerity SendKind = 26
)

// The attributes of commands.
const (
	attrUUID           = 1
	attrTransid        = 2
	attrIno            = 3
	attrSize           = 4
	attrMode           = 5
	attrUID            = 6
	attrGID            = 7
	attrRdev           = 8
	attrCtime          = 9
	attrMtime          = 10
	attrAtime          = 11
	attrOtime          = 12
	attrXattrName      = 13
	attrXattrData      = 14
	attrPath           = 15
	attrPathTo         = 16
	attrPathLink       = 17
	attrOffset         = 18
	attrData           = 19
	attrCloneUUID      = 20
	attrCloneTransid   = 21
	attrClonePath      = 22
	attrCloneOffset    = 23
	attrCloneLen       = 24
	attrFallocateMode  = 25
	attrFileattr       = 26
	attrUnencodedFile  = 27
	attrUnencodedLen   = 28
	attrUnencodedOff   = 29
	attrCompression    = 30
	attrEncryption     = 31
	attrVerityAlgo     = 32
	attrVerityBlock    = 33
	attrVeritySalt     = 34
	attrVeritySig      = 35
	lastAttrV1         = attrCloneLen
	lastAttrV2         = attrEncryption
	lastAttr           = attrVeritySig
	streamMagic        = "btrfs-stream\x00"
	streamHeader       = len(streamMagic) + 4
	commandHeader      = 10
	maxCommandV1       = 64 << 10
	maxCommand         = 16<<10 + 128<<10 + 4096 // version 2: 16 KiB and a compressed extent, in whole pages
	maxStreamPath      = 4096
	maxXattrName       = 255
	lastCommandV1      = SendUpdateExtent
	lastCommandV2      = SendEncodedWrite
	lastCommand        = SendEnableVerity
	maxVersion         = 3
	timespecSize       = 12
	maxVeritySignature = 16128
)

// SendTime is a time in a stream.
type SendTime struct {
	Sec  int64
	Nsec uint32
}

// SendCommand is one command, with the attributes that it has; others are zero. Its byte slices are valid
// until the next one is read.
type SendCommand struct {
	Kind SendKind

	Path      string // relative to the subvolume; empty: its root
	To        string // new path of a rename
	LinkTo    string // of a link: the existing name; of a symbolic link: its target
	Ino       uint64
	Size      uint64 // bytes: of a truncate, or changed from Offset on
	Mode      uint64
	UID, GID  uint64
	Rdev      uint64
	Ctime     SendTime
	Mtime     SendTime
	Atime     SendTime
	Otime     SendTime
	Offset    uint64
	Data      []byte
	XattrName string
	XattrData []byte

	UUID         [16]byte // of the subvolume
	Transid      uint64
	CloneUUID    [16]byte
	CloneTransid uint64
	ClonePath    string
	CloneOffset  uint64
	CloneLen     uint64

	FallocateMode    uint32
	Fileattr         uint64
	UnencodedFileLen uint64 // bytes of the file that an encoded write stands for
	UnencodedLen     uint64
	UnencodedOffset  uint64
	Compression      uint32
	Encryption       uint32

	Verity [2]uint64 // algorithm, block size

	has uint64 // bits of the attributes that were there
}

func (c *SendCommand) had(attrs ...int) bool {
	for _, a := range attrs {
		if c.has&(1<<a) == 0 {
			return false
		}
	}
	return true
}

// needs lists the attributes without which a command means nothing.
var needs = map[SendKind][]int{
	SendSubvol:       {attrPath, attrUUID, attrTransid},
	SendSnapshot:     {attrPath, attrUUID, attrTransid, attrCloneUUID, attrCloneTransid},
	SendMkfile:       {attrPath, attrIno},
	SendMkdir:        {attrPath, attrIno},
	SendMknod:        {attrPath, attrIno, attrMode, attrRdev},
	SendMkfifo:       {attrPath, attrIno, attrMode, attrRdev},
	SendMksock:       {attrPath, attrIno, attrMode, attrRdev},
	SendSymlink:      {attrPath, attrIno, attrPathLink},
	SendRename:       {attrPath, attrPathTo},
	SendLink:         {attrPath, attrPathLink},
	SendUnlink:       {attrPath},
	SendRmdir:        {attrPath},
	SendSetXattr:     {attrPath, attrXattrName, attrXattrData},
	SendRemoveXattr:  {attrPath, attrXattrName},
	SendWrite:        {attrPath, attrOffset, attrData},
	SendClone:        {attrPath, attrOffset, attrCloneLen, attrCloneUUID, attrCloneTransid, attrClonePath, attrCloneOffset},
	SendTruncate:     {attrPath, attrSize},
	SendChmod:        {attrPath, attrMode},
	SendChown:        {attrPath, attrUID, attrGID},
	SendUtimes:       {attrPath, attrAtime, attrMtime, attrCtime},
	SendEnd:          {},
	SendUpdateExtent: {attrPath, attrOffset, attrSize},
	SendFallocate:    {attrPath, attrFallocateMode, attrOffset, attrSize},
	SendFileattr:     {attrPath, attrFileattr},
	SendEncodedWrite: {attrPath, attrOffset, attrUnencodedFile, attrUnencodedLen, attrUnencodedOff, attrData},
	SendEnableVerity: {attrPath, attrVerityAlgo, attrVerityBlock},
}

// SendReader reads a send stream of version 1, 2 or 3, command by command.
// Every length is bounded, every checksum is checked, and a stream ends with
// its end command. It is used by one goroutine.
type SendReader struct {
	r       *bufio.Reader
	version uint32
	buf     []byte
	cmd     SendCommand
	ended   bool
}

// NewSendReader reads the head of the stream r. It may read ahead.
func NewSendReader(r io.Reader) (*SendReader, error) {
	s := &SendReader{r: bufio.NewReaderSize(r, 256<<10)}
	var head [streamHeader]byte
	if _, err := io.ReadFull(s.r, head[:]); err != nil {
		return nil, cut(err)
	}
	s.version = binary.LittleEndian.Uint32(head[len(streamMagic):])
	if string(head[:len(streamMagic)]) != streamMagic || s.version < 1 || s.version > maxVersion {
		return nil, fmt.Errorf("%w: magic %q, version %d", ErrStream, head[:len(streamMagic)], s.version)
	}
	return s, nil
}

// Version of the stream.
func (s *SendReader) Version() int { return int(s.version) }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Next returns the next command, SendEnd as the last one, then io.EOF. The
// result is valid until the next call. ErrStream where the stream is damaged;
// errors of its reader are wrapped.
func (s *SendReader) Next() (*SendCommand, error) {
	if s.ended {
		return nil, io.EOF
	}
	var head [commandHeader]byte
	if _, err := io.ReadFull(s.r, head[:]); err != nil {
		return nil, cut(err)
	}
	size := binary.LittleEndian.Uint32(head[0:])
	kind := SendKind(binary.LittleEndian.Uint16(head[4:]))
	limit := uint32(maxCommand)
	if s.version == 1 {
		limit = maxCommandV1
	}
	if size > limit {
		return nil, fmt.Errorf("%w: command %d of %d bytes", ErrStream, kind, size)
	}
	if cap(s.buf) < int(size) {
		s.buf = make([]byte, size, max(int(size), 4096))
	}
	s.buf = s.buf[:size]
	if _, err := io.ReadFull(s.r, s.buf); err != nil {
		return nil, cut(err)
	}
	// The kernel's CRC32C begins with 0 and is not inverted at the end, which Go's is at both.
	want := binary.LittleEndian.Uint32(head[6:])
	clear(head[6:])
	sum := ^crc32.Update(crc32.Update(^uint32(0), castagnoli, head[:]), castagnoli, s.buf)
	if sum != want {
		return nil, fmt.Errorf("%w: checksum of command %d is %08x, not %08x", ErrStream, kind, sum, want)
	}
	if err := s.parse(kind); err != nil {
		return nil, err
	}
	s.ended = kind == SendEnd
	return &s.cmd, nil
}

// cut makes an end in the middle of things ErrStream.
func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it is cut off", ErrStream)
	}
	return fmt.Errorf("read send stream: %w", err)
}

func (s *SendReader) parse(kind SendKind) error {
	highest, attrs := lastCommandV1, lastAttrV1
	switch s.version {
	case 2:
		highest, attrs = lastCommandV2, lastAttrV2
	case 3:
		highest, attrs = lastCommand, lastAttr
	}
	want, ok := needs[kind]
	if !ok || kind > highest {
		return fmt.Errorf("%w: command %d in version %d", ErrStream, kind, s.version)
	}
	s.cmd = SendCommand{Kind: kind}
	for b := s.buf; len(b) > 0; {
		if len(b) < 2 {
			return fmt.Errorf("%w: command %d ends in an attribute", ErrStream, kind)
		}
		attr := int(binary.LittleEndian.Uint16(b))
		var value []byte
		switch {
		case attr == attrData && s.version >= 2: // the rest is data, without a length
			value, b = b[2:], nil
		case len(b) < 4 || len(b)-4 < int(binary.LittleEndian.Uint16(b[2:])):
			return fmt.Errorf("%w: command %d ends in an attribute", ErrStream, kind)
		default:
			n := int(binary.LittleEndian.Uint16(b[2:]))
			value, b = b[4:4+n], b[4+n:]
		}
		if attr == 0 || attr > attrs || s.cmd.had(attr) {
			return fmt.Errorf("%w: attribute %d in command %d", ErrStream, attr, kind)
		}
		if err := s.cmd.set(attr, value); err != nil {
			return err
		}
		s.cmd.has |= 1 << attr
	}
	if !s.cmd.had(want...) {
		return fmt.Errorf("%w: command %d lacks an attribute", ErrStream, kind)
	}
	return nil
}

func (c *SendCommand) set(attr int, b []byte) error {
	var err error
	switch attr {
	case attrUUID:
		err = fixed(b, c.UUID[:])
	case attrCloneUUID:
		err = fixed(b, c.CloneUUID[:])
	case attrTransid:
		c.Transid, err = number(b)
	case attrIno:
		c.Ino, err = number(b)
	case attrSize:
		c.Size, err = number(b)
	case attrMode:
		c.Mode, err = number(b)
	case attrUID:
		c.UID, err = number(b)
	case attrGID:
		c.GID, err = number(b)
	case attrRdev:
		c.Rdev, err = number(b)
	case attrCtime:
		c.Ctime, err = moment(b)
	case attrMtime:
		c.Mtime, err = moment(b)
	case attrAtime:
		c.Atime, err = moment(b)
	case attrOtime:
		c.Otime, err = moment(b)
	case attrXattrName:
		c.XattrName, err = text(b, maxXattrName)
	case attrXattrData:
		c.XattrData = b
	case attrPath:
		c.Path, err = text(b, maxStreamPath)
	case attrPathTo:
		c.To, err = text(b, maxStreamPath)
	case attrPathLink:
		c.LinkTo, err = text(b, maxStreamPath)
	case attrClonePath:
		c.ClonePath, err = text(b, maxStreamPath)
	case attrOffset:
		c.Offset, err = number(b)
	case attrData:
		c.Data = b
	case attrCloneTransid:
		c.CloneTransid, err = number(b)
	case attrCloneOffset:
		c.CloneOffset, err = number(b)
	case attrCloneLen:
		c.CloneLen, err = number(b)
	case attrFallocateMode:
		c.FallocateMode, err = short(b)
	case attrFileattr:
		c.Fileattr, err = number(b)
	case attrUnencodedFile:
		c.UnencodedFileLen, err = number(b)
	case attrUnencodedLen:
		c.UnencodedLen, err = number(b)
	case attrUnencodedOff:
		c.UnencodedOffset, err = number(b)
	case attrCompression:
		c.Compression, err = short(b)
	case attrEncryption:
		c.Encryption, err = short(b)
	case attrVerityAlgo:
		if len(b) != 1 {
			return fmt.Errorf("%w: algorithm of %d bytes", ErrStream, len(b))
		}
		c.Verity[0] = uint64(b[0])
	case attrVerityBlock:
		var n uint32
		n, err = short(b)
		c.Verity[1] = uint64(n)
	case attrVeritySalt, attrVeritySig: // what verity is for is not ours to check
		if len(b) > maxVeritySignature {
			err = fmt.Errorf("%w: signature of %d bytes", ErrStream, len(b))
		}
	}
	return err
}

func fixed(b, into []byte) error {
	if len(b) != len(into) {
		return fmt.Errorf("%w: attribute of %d bytes, not %d", ErrStream, len(b), len(into))
	}
	copy(into, b)
	return nil
}

func number(b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("%w: number of %d bytes", ErrStream, len(b))
	}
	return binary.LittleEndian.Uint64(b), nil
}

func short(b []byte) (uint32, error) {
	if len(b) != 4 {
		return 0, fmt.Errorf("%w: number of %d bytes", ErrStream, len(b))
	}
	return binary.LittleEndian.Uint32(b), nil
}

func moment(b []byte) (SendTime, error) {
	if len(b) != timespecSize {
		return SendTime{}, fmt.Errorf("%w: time of %d bytes", ErrStream, len(b))
	}
	return SendTime{int64(binary.LittleEndian.Uint64(b)), binary.LittleEndian.Uint32(b[8:])}, nil
}

func text(b []byte, most int) (string, error) {
	if len(b) > most {
		return "", fmt.Errorf("%w: text of %d bytes", ErrStream, len(b))
	}
	return string(b), nil
}
