// Pointers that check: what kernel.cuh calls Shared<T> and Global<T> when a kernel runs on the emulator.
#pragma once
#include <stdint.h>
#include <string.h>

#include <type_traits>

#include "device.h"
#include "memory.h"

namespace emu {

// An index that knows the source line where it was written.
struct Index {
  int64_t value;
  Where at;
  template <class I, class = std::enable_if_t<std::is_integral_v<I> || std::is_enum_v<I>>>
  Index(I value, const char* file = __builtin_FILE(), int line = __builtin_LINE())
      : value(static_cast<int64_t>(value)), at{file, line} {}
};

inline void check_global(const tw_emu_range* range, const void* pointer, uint64_t bytes, uint64_t alignment, bool writes, Where at) {
  const uintptr_t place = reinterpret_cast<uintptr_t>(pointer);
  const uintptr_t start = range == nullptr ? 0 : reinterpret_cast<uintptr_t>(range->start);
  if (range == nullptr || place < start || place - start + bytes > range->bytes || (writes && !range->writable)) {
    global_fault(range, pointer, bytes, writes, at);
  }
  if (place % alignment != 0) alignment_fault("global", place, alignment, at);
}

template <class T>
class Global;
template <class T>
class Shared;

// What `pointer[i]` stands for: a value to read, or a place to write to. `Pointer` does the checking.
template <class Pointer, class T>
class Place {
 public:
  using Value = std::remove_const_t<T>;
  Place(Pointer pointer, Where at) : pointer_(pointer), at_(at) {}
  Place(const Place&) = default;
  // Only at once: `auto x = pointer[i];` would be a place whose value is read later, and does not convert.
  operator Value() const&& { return pointer_.read(at_); }
  Value operator=(Value value) const { return pointer_.write(value, at_), value; }
  Value operator=(const Place& other) const { return *this = other.pointer_.read(other.at_); }
  Value operator+=(Value value) const { return *this = static_cast<Value>(pointer_.read(at_) + value); }
  Value operator-=(Value value) const { return *this = static_cast<Value>(pointer_.read(at_) - value); }
  Value operator*=(Value value) const { return *this = static_cast<Value>(pointer_.read(at_) * value); }
  Value operator|=(Value value) const { return *this = static_cast<Value>(pointer_.read(at_) | value); }
  Value operator++() const { return *this += Value(1); }
  Pointer operator&() const { return pointer_; }

 private:
  Pointer pointer_;
  Where at_;
};

template <class T>
class Global {
 public:
  using Value = std::remove_const_t<T>;
  Global() = default;
  Global(std::nullptr_t) {}
  explicit Global(T* pointer) : pointer_(pointer), range_(pointer == nullptr ? nullptr : range_of(pointer)) {}
  Global(T* pointer, const tw_emu_range* range) : pointer_(pointer), range_(range) {}
  operator Global<const T>() const { return Global<const T>(pointer_, range_); }
  Place<Global, T> operator[](Index i) const { return Place<Global, T>(*this + i.value, i.at); }
  // The sum is formed as a number: a pointer past its array is wrong only when it is used.
  template <class I>
  Global operator+(I i) const {
    return Global(reinterpret_cast<T*>(reinterpret_cast<intptr_t>(pointer_) + static_cast<int64_t>(i) * int64_t{sizeof(T)}), range_);
  }
  template <class I>
  Global operator-(I i) const { return *this + -static_cast<int64_t>(i); }
  int64_t operator-(Global other) const { return pointer_ - other.pointer_; }
  template <class I>
  Global& operator+=(I i) { return *this = *this + i; }
  Global& operator++() { return *this += 1; }
  bool operator==(Global other) const { return pointer_ == other.pointer_; }
  bool operator!=(Global other) const { return pointer_ != other.pointer_; }
  explicit operator bool() const { return pointer_ != nullptr; }

  Value read(Where at) const {
    check_global(range_, pointer_, sizeof(T), alignof(T), false, at);
    Value value;
    memcpy(static_cast<void*>(&value), pointer_, sizeof value);
    return value;
  }
  void write(Value value, Where at) const {
    check_global(range_, pointer_, sizeof(T), alignof(T), true, at);
    if constexpr (!std::is_const_v<T>) memcpy(static_cast<void*>(pointer_), &value, sizeof value);
  }
  // The bytes themselves, checked for a copy or an atomic operation.
  T* raw(uint64_t bytes, uint64_t alignment, bool writes, Where at) const {
    if (bytes != 0) check_global(range_, pointer_, bytes, alignment, writes, at);
    return pointer_;
  }
  template <class U>
  Global<U> cast() const {
    return Global<U>(reinterpret_cast<U*>(pointer_), range_);
  }

 private:
  T* pointer_ = nullptr;
  const tw_emu_range* range_ = nullptr;
};

template <class T>
class Shared {
 public:
  using Value = std::remove_const_t<T>;
  Shared() = default;
  Shared(uint32_t address, uint32_t low, uint32_t high) : address_(address), low_(low), high_(high) {}
  operator Shared<const T>() const { return Shared<const T>(address_, low_, high_); }
  Place<Shared, T> operator[](Index i) const { return Place<Shared, T>(*this + i.value, i.at); }
  template <class I>
  Shared operator+(I i) const {
    return Shared(static_cast<uint32_t>(address_ + static_cast<int64_t>(i) * int64_t{sizeof(T)}), low_, high_);
  }
  template <class I>
  Shared operator-(I i) const { return *this + -static_cast<int64_t>(i); }
  template <class I>
  Shared& operator+=(I i) { return *this = *this + i; }
  Shared& operator++() { return *this += 1; }
  bool operator==(Shared other) const { return address_ == other.address_; }

  Value read(Where at) const {
    check(at);
    Value value;
    memcpy(static_cast<void*>(&value), shared_read(address_, sizeof(T), alignof(T), at), sizeof value);
    return value;
  }
  void write(Value value, Where at) const {
    static_assert(!std::is_const_v<T>, "the pointer is to const");
    check(at);
    memcpy(shared_write(address_, sizeof(T), alignof(T), at), &value, sizeof value);
  }
  uint32_t address() const { return address_; }
  template <class U>
  Shared<U> cast() const {
    return Shared<U>(address_, low_, high_);
  }
  void check(Where at) const {
    if (address_ < low_ || uint64_t{address_} + sizeof(T) > high_) bounds_fault(address_, sizeof(T), low_, high_, at);
  }

 private:
  uint32_t address_ = 0, low_ = 0, high_ = 0;
};

// An atomic change of shared memory: fibers of a block never run at once, so a read and a write are one.
template <class T, class F>
T shared_atomic(Shared<T> place, F change, Where at) {
  place.check(at);
  uint8_t* bytes = shared_atomic_access(place.address(), sizeof(T), alignof(T), at);
  T old;
  memcpy(&old, bytes, sizeof old);
  const T wanted = change(old);
  memcpy(bytes, &wanted, sizeof wanted);
  return old;
}

// One allocation or part of the block's shared memory (launch.cpp).
uint32_t static_shared(const void* key, uint64_t bytes, uint32_t alignment, Where at);
uint32_t dynamic_shared(uint32_t offset, uint64_t bytes, uint32_t alignment, Where at);

}  // namespace emu
